"""A user's own training loop, as a tuner sees it."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from objectives.training.evaluation import checked_loss
from objectives.training.randomness import GlobalStreams, derived_seed, packed, unpacked
from objectives.training.regularization import Regularization
from objectives.training.stream import Stream
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer

Loss = Callable[..., Tensor]
Validation = Iterable[Any] | Callable[[], Any]

_LONGEST = 1000  # batches of a pass: some loaders never end


@dataclass
class OwnTask:
    """The part of a task that a loop of one's own has: validation batches and a loss.

    loss: of outputs and targets; `each` asks it for the losses of the examples where it can say.
    """

    loss_of: Loss
    validation: Validation
    classes: int | None
    each: bool = False
    name: str = "self_tune"

    def __post_init__(self) -> None:
        self.each = self.each and "reduction" in _parameters(self.loss_of)

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Any]:
        """One pass over the validation data; a callable gives one batch, or a pass, at a time."""
        if isinstance(self.validation, Iterable):
            return islice(iter(self.validation), _LONGEST)
        found = self.validation()
        pair = isinstance(found, tuple | list) and len(found) == 2
        given = (found,) if pair and isinstance(found[0], Tensor) else found
        return islice(iter(given), _LONGEST)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch: one number for each example, or their mean."""
        return self.losses(model(batch.inputs), batch.targets)

    def losses(self, outputs: Any, targets: Tensor) -> Tensor:
        """The same from what the model put out."""
        options = {"reduction": "none"} if self.each else {}
        return by_example(self.loss_of(outputs, targets, **options), len(targets))


def by_example(losses: Tensor, rows: int) -> Tensor:
    """Losses of parts of examples (tokens, pixels) as one for each example, or as their mean."""
    if not isinstance(losses, Tensor) or losses.ndim == 0 or losses.shape == (rows,):
        return losses
    return losses.flatten(1).mean(1) if len(losses) == rows and losses.ndim > 1 else losses.mean()


@dataclass
class Pace:
    """How far a loop goes, and how its learning rate stands to the highest there was."""

    steps: int
    optimizer: torch.optim.Optimizer
    peak: float = 0.0

    def rate_factor(self, progress: float) -> float:
        """The present learning rate as a share of its peak so far."""
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.peak = max(self.peak, rate)
        return rate / self.peak if self.peak > 0 else 1.0


class OwnLoop:
    """What a tuner uses of a run, on top of the model and the optimizer of a user's loop.

    Validation batches are drawn from random streams of their own, so that the loop's are left as
    they would be without it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        task: OwnTask,
        steps: int,
        seed: int,
    ) -> None:
        self.model, self.optimizer, self.task = model, optimizer, task
        self.training = Pace(steps, optimizer)
        self.seed, self.step = seed, 0
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.parameters = {
            name: p for name, p in model.named_parameters() if p.requires_grad and id(p) in stepped
        }
        if not self.parameters:
            raise HpoError(
                "the optimizer steps none of the model's parameters",
                hint="build it from model.parameters(), after the model is on its device",
                code="bad-optimizer",
            )
        self.effective: Callable[[], Mapping[str, Tensor]] = lambda: self.parameters
        self.device = next(iter(self.parameters.values())).device
        self.noise = torch.Generator(self.device).manual_seed(derived_seed(seed, "noise"))
        self.streams = GlobalStreams(seed, self.device)
        self.cost = {"gradients": 0.0, "examples": 0.0}
        stream_seed = derived_seed(seed, "validation")
        self._stream = Stream(task, "validation", stream_seed, self.device, self.streams)  # type: ignore[arg-type]
        self._recent: deque[Batch] = deque(maxlen=2)  # as the loop's own data gave them
        self._undo: list[Callable[[], None]] = []
        self.regularization: Regularization

    def regularize(self, regularizers: Mapping[str, Regularizer], point: Mapping[str, Any]) -> None:
        """Puts the regularizers on the model; those of the optimizer's own that a knob takes the
        place of rest until `close`."""
        task: Any = self.task
        self.regularization = Regularization(task, self.model, regularizers, point, self.noise)
        self._undo += self.regularization.attach()
        if any(r.optimizer is not None for r in regularizers.values()):
            self._undo += [_without_decay(group) for group in self.optimizer.param_groups]

    def keep(self, undo: Callable[[], None]) -> None:
        """Registers what `close` must call."""
        self._undo.append(undo)

    def close(self) -> None:
        """Undoes every change made to model and optimizer, the last one first."""
        while self._undo:
            self._undo.pop()()

    def saw(self, batch: Batch) -> None:
        """Takes note of a training batch."""
        self._recent.append(batch)

    def next_batch(self, split: str = "validation") -> Batch:
        """The next validation batch, on the model's device; of the training batches, which are the
        loop's own, the one before the last."""
        if split == "train":
            return self._recent[0]
        with self.streams.active():
            return self._stream.next()

    def regularized_loss(
        self, batch: Batch, knobs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """The mean loss of a batch under the regularizers, and the penalty that goes with it."""
        losses, _ = self.regularization.loss(self.model, batch, knobs)
        return losses.mean(), self.regularization.penalty(self.effective(), knobs)

    def mean(
        self, losses: Tensor, rows: int, knobs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """The mean of what the loss of a batch gave, and the penalty that goes with it."""
        losses = checked_loss(losses, rows, self.task)
        mean = self.regularization.losses(losses, rows, knobs).mean()
        return mean, self.regularization.penalty(self.effective(), knobs)

    def spend(self, gradients: float = 0.0, examples: float = 0.0, **other: float) -> None:
        """Counts work."""
        for name, amount in {"gradients": gradients, "examples": examples, **other}.items():
            self.cost[name] = self.cost.get(name, 0.0) + amount

    def optimizer_like(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer as the loop's own for other parameters, without decay of weights; Adam for
        kinds that cannot be built from their defaults."""
        kind, group = type(self.optimizer), self.optimizer.param_groups[0]
        known = _parameters(kind.__init__)
        options = {n: group[n] for n in self.optimizer.defaults if n in known and n in group}
        if "weight_decay" in options:
            options["weight_decay"] = 0.0
        try:
            return kind(parameters, **options)
        except (TypeError, ValueError):
            return torch.optim.Adam(parameters, lr=float(group["lr"]))

    def state_dict(self) -> dict[str, Any]:
        """Position and draws, as tensors and plain data."""
        with self.streams.active():
            streams = packed(self.streams.now())
        return {
            "step": self.step,
            "peak": self.training.peak,
            "cost": dict(self.cost),
            "noise": self.noise.get_state(),
            "validation": self._stream.state_dict(),
            "streams": streams,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved position."""
        self.step, self.training.peak = state["step"], state["peak"]
        self.cost = dict(state["cost"])
        self.noise.set_state(state["noise"])
        with self.streams.active():
            self._stream.load_state_dict(state["validation"])
            self.streams.rewind(unpacked(state["streams"]))


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions do not say
        return {}


def _without_decay(group: dict[str, Any]) -> Callable[[], None]:
    decay = group.get("weight_decay")
    if not decay:
        return lambda: None
    group["weight_decay"] = 0.0

    def restore() -> None:
        group["weight_decay"] = decay

    return restore
