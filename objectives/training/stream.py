"""Batches of one split, pass after pass, from a position that can be saved."""

from collections.abc import Iterator
from typing import Any

import torch

from objectives.training.randomness import GlobalStreams, packed, unpacked
from objectives.training.task import Task, task_name
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch


def as_batch(raw: object, task: object, split: str) -> Batch:
    """What a task's `batches` yielded, as a Batch; HpoError if it is not inputs and targets."""
    where = f"objective {task_name(task)}: batches('{split}') gave"
    if not isinstance(raw, tuple | list) or len(raw) != 2:
        size = f" of {len(raw)}" if isinstance(raw, tuple | list) else ""
        raise _bad_batch(f"{where} a {type(raw).__name__}{size}, not a pair")
    for role, part in zip(("inputs", "targets"), raw, strict=True):
        if not isinstance(part, torch.Tensor) or part.ndim == 0:
            found = "a single number" if isinstance(part, torch.Tensor) else type(part).__name__
            raise _bad_batch(f"{where} {role} of the kind {found}, not a tensor of several rows")
    inputs, targets = raw
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise _bad_batch(f"{where} {len(inputs)} inputs with {len(targets)} targets")
    return Batch(inputs, targets)


def _bad_batch(message: str) -> HpoError:
    return HpoError(
        message,
        hint="each batch must be (inputs, targets), two tensors with one row per example",
        code="bad-batch",
    )


def one_pass(task: Task, split: str, rng: torch.Generator) -> Iterator[object]:
    """The iterator over a split, checked to be one."""
    batches = task.batches(split, rng)
    try:
        return iter(batches)
    except TypeError:
        raise _bad_batch(
            f"objective {task_name(task)}: batches('{split}') gave a "
            f"{type(batches).__name__}, which cannot be iterated"
        ) from None


def empty_split(task: object, split: str) -> HpoError:
    """The error for a pass that ends before it begins."""
    return HpoError(
        f"objective {task_name(task)}: batches('{split}') gave no batch",
        hint="is the split empty, or was a used-up iterator returned again?",
        code="empty-split",
    )


class Stream:
    """An endless sequence of batches of one split, on one device.

    A position is saved as the generators' states at the start of the present pass and the number of
    batches taken from it: a user's iterator cannot be saved, but it can be walked again.
    """

    def __init__(
        self, task: Task, split: str, seed: int, device: torch.device, streams: GlobalStreams
    ) -> None:
        self._task = task
        self._split = split
        self._device = device
        self._streams = streams
        self._rng = torch.Generator().manual_seed(seed)
        self._batches: Iterator[object] = iter(())
        self._start = self._rng.get_state()
        self._globals_at_start: tuple[Any, ...] | None = None  # no pass has begun
        self._taken = 0

    def next(self) -> Batch:
        """The next batch; a new pass begins when one ends."""
        raw = next(self._batches, None)
        if raw is None:
            self._begin_pass()
            raw = next(self._batches, None)
            if raw is None:
                raise empty_split(self._task, self._split)
        self._taken += 1
        inputs, targets = as_batch(raw, self._task, self._split)
        return Batch(inputs.to(self._device), targets.to(self._device))

    def _begin_pass(self) -> None:
        self._start = self._rng.get_state()
        self._globals_at_start = self._streams.now()
        self._taken = 0
        self._batches = one_pass(self._task, self._split, self._rng)

    def state_dict(self) -> dict[str, Any]:
        """The position, as tensors and plain data."""
        begun = self._globals_at_start
        return {
            "generator": self._start,
            "globals": None if begun is None else packed(begun),
            "taken": self._taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Walks to a saved position. The global generators are left where the walk ends."""
        self._rng.set_state(state["generator"])
        if state["globals"] is None:
            return
        self._streams.rewind(unpacked(state["globals"]))
        self._begin_pass()
        for _ in range(state["taken"]):
            next(self._batches, None)
        self._taken = state["taken"]
