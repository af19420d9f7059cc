"""What a regularizer remembers of each training example, found again by the example's content."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning

_WORD = 8  # bytes of the whole numbers that the content of an example is read as
_ODD = 0x5851F42D4C957F2D
_LOW_HALF = 0xFFFFFFFF


class ExampleMemory:
    """A row of numbers for each training example, zero until it has been updated.

    Batches carry no row numbers, so an example is known by the bytes of its raw inputs, before any
    augmentation. Examples that are identical share a row, whatever their targets. One that was not
    in the pass over the training split from which the memory was made is not remembered; among
    these are examples that the task changes from pass to pass, or pads to another length.

    `recall` changes nothing; only `update` and `load_state_dict` do. No operation makes the host
    wait for a GPU, save the first update.
    """

    def __init__(self, keys: Tensor, width: int) -> None:
        import torch

        self._keys = torch.unique(keys)  # sorted
        # One more row takes what belongs to no example, and is never seen.
        rows = len(self._keys) + 1
        self._values = torch.zeros(rows, width, device=keys.device)
        self._seen = torch.zeros(rows, dtype=torch.bool, device=keys.device)
        self._checked = False

    def __len__(self) -> int:
        return len(self._keys)

    def recall(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What is remembered of these examples (B, width), and which have been updated (B,);
        zero for those that have not."""
        rows = self._rows(inputs)
        return self._values[rows], self._seen[rows]

    def update(self, inputs: Tensor, rule: Callable[[Tensor], Tensor]) -> None:
        """Remembers what the rule makes of the rows (B, width) that are remembered so far; of
        examples that are several times in a batch the mean, so that their order does not matter.
        HpoError if the first batch has no known example."""
        rows = self._rows(inputs)
        self._check(rows)
        values = rule(self._values[rows]).detach().to(self._values)
        self._values[rows] = _mean_by_row(rows, values)
        self._seen[rows] = True
        self._values[-1] = 0
        self._seen[-1] = False

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered, as tensors."""
        return {"keys": self._keys, "values": self._values[:-1], "seen": self._seen[:-1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state; ValueError if it is about other examples."""
        import torch

        keys = state["keys"].to(self._keys.device)
        if not torch.equal(keys, self._keys):
            raise ValueError("it remembers other training examples than this run has")
        if state["values"].shape != self._values[:-1].shape:
            raise ValueError("what it remembers of an example has another width than here")
        self._values[:-1] = state["values"].to(self._values)
        self._seen[:-1] = state["seen"].to(self._seen)

    def _rows(self, inputs: Tensor) -> Tensor:
        """The row of each example; the last one where it is not known."""
        import torch

        keys = fingerprints(inputs)
        rows = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return torch.where(self._keys[rows] == keys, rows, len(self._keys))

    def _check(self, rows: Tensor) -> None:
        """Once, as it makes the host wait: a memory that knows no example would do nothing."""
        if self._checked:
            return
        self._checked = True
        if not bool((rows < len(self._keys)).any()):
            raise HpoError(
                "none of the examples of a training batch was in the pass over the training split"
                " that the run began with, so nothing can be remembered of them",
                hint="the task must give the same examples in every pass: let it augment by knobs"
                " of the space, not inside batches(); or leave out the knobs of elr and"
                " self_distillation",
                code="unsuited-task",
            )


def class_memory(beginning: Beginning, user: str) -> ExampleMemory:
    """An empty memory with a number for each class, of all examples of the training split."""
    import torch

    if beginning.classes is None:
        raise HpoError(
            f"{user} needs a number of classes",
            hint="give the task an attribute classes, or leave this knob out",
            code="bad-task",
        )
    keys = [fingerprints(batch.inputs) for batch in beginning.batches()]
    if not keys:
        raise HpoError(f"{user}: the training split has no batch", code="bad-task")
    return ExampleMemory(torch.cat(keys).to(beginning.device), beginning.classes)


def fingerprints(inputs: Tensor) -> Tensor:
    """A whole number of 64 bits for each example, the same for the same bytes on every device.

    The bytes are read as words w_i of 64 bits, each is mixed by a bijection m (multiplied by an
    odd number, its upper half then folded onto its lower half), and the key is sum_i r_i m(w_i)
    modulo 2^64 with fixed random odd r_i. Two examples that differ share a key with a probability
    of at most 2^(t-63), t the zeros at which the least differing mixed word ends; mixing makes t
    small also for words that differ in high bits alone, as floats such as 0 and 1 do.
    """
    import torch

    words = _words(inputs.detach())
    mixed = words * _ODD
    mixed = mixed.bitwise_xor_((mixed >> 32).bitwise_and_(_LOW_HALF))
    return mixed.mul_(_multipliers(words.shape[1], words.device)).sum(1, dtype=torch.int64)


def _words(inputs: Tensor) -> Tensor:
    """The bytes of each example as words (B, n), the last one filled up with zeros."""
    import torch
    from torch.nn import functional

    rows = inputs.reshape(len(inputs), -1).contiguous()
    whole = rows.shape[1] * rows.element_size() % _WORD == 0
    if not whole:
        size = rows.element_size()
        rows = functional.pad(rows.view(torch.uint8), (0, -rows.shape[1] * size % _WORD))
    elif rows.storage_offset() * rows.element_size() % _WORD:
        rows = rows.clone()  # a word may begin at a multiple of its size only
    return rows.view(torch.int64)


@lru_cache(maxsize=16)
def _multipliers(count: int, device: torch.device) -> Tensor:
    """So many odd numbers, those of the generator splitmix64: the same in every version of torch,
    as keys are part of checkpoints."""
    import numpy
    import torch

    state = numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    odd = (state ^ (state >> numpy.uint64(31))) | numpy.uint64(1)
    return torch.from_numpy(odd.view(numpy.int64)).to(device)


def _mean_by_row(rows: Tensor, values: Tensor) -> Tensor:
    """For each entry the mean of the values that have its row number."""
    import torch

    ordered = rows.sort().values
    group = torch.searchsorted(ordered, rows)  # where its row number stands first
    counts = torch.searchsorted(ordered, rows, right=True) - group
    totals = torch.zeros_like(values).index_add_(0, group, values)
    return totals[group] / counts[:, None]
