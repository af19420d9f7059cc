"""What an operation is: a change of examples by an amount that each of them has for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from search_spaces.augmentation.values import Range, scaled
from search_spaces.augmentation.vocabulary import Vocabulary, renumbered
from search_spaces.domains import Float, Int
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, Strength, Strengths, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning

Kind: TypeAlias = Literal["image", "series", "table", "tokens"]
Ways: TypeAlias = Literal["one", "both", "switch"]
Memory: TypeAlias = Range | Vocabulary

SHAPES: dict[Kind, str] = {
    "image": "(B, C, H, W)",
    "series": "(B, C, T)",
    "table": "(B, D)",
    "tokens": "(B, T), whole numbers",
}
_DIMENSIONS = {"image": 4, "series": 3, "table": 2, "tokens": 2}


_CHANNEL = "need a dimension for their one channel: let batches() return inputs.unsqueeze(1)"
_HINTS = {
    ("image", 3): f"grey images {_CHANNEL}; for other inputs leave this knob out",
    ("series", 2): f"single series {_CHANNEL}; for other inputs leave this knob out",
}


@dataclass(frozen=True)
class Operation:
    """A change of examples that grows with an amount.

    apply: (examples, amounts (B,), generator) -> examples of the same shape. An amount of zero is
    no change, up to rounding. An example depends on its own amount and draws alone, and the number
    of draws on the shape alone.

    kind: what examples are, of the shapes in SHAPES. knob: the range of the strength, which is the
    largest amount; `off` is zero. full: the amount at magnitude 1 of a policy. ways: amounts go
    "one" way, from zero on, or "both" ways, or are a "switch", 0 or 1, whose strength is the
    probability of 1. valued: it works on values in [0, 1], to which inputs are scaled; tokens come
    in the numbers of `vocabulary`, padding 0 and the mask 1. channels: how many it needs, or None.
    differentiable: the result has a useful gradient in the amounts; with surrogate it is that of a
    smoother change.
    """

    kind: Kind
    apply: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    knob: Float | Int
    full: float
    ways: Ways = "one"
    valued: bool = False
    channels: int | None = None
    differentiable: bool = False
    surrogate: bool = False
    note: str = ""

    @property
    def remember(self) -> Callable[[Beginning], Memory] | None:
        """What must be known of a run to prepare its inputs for `apply`."""
        if self.kind == "tokens":
            return Vocabulary.seen
        return Range.seen if self.valued else None

    def amounts(self, magnitude: Strength, rows: int, like: Tensor, rng: torch.Generator) -> Tensor:
        """The amounts (rows,) at a policy's magnitude in [0, 1]: exactly `full` of it, with a
        drawn sign where there are both ways; 1 for a switch, wherever the magnitude is above 0."""
        import torch

        part = torch.as_tensor(magnitude, device=like.device).to(like).expand(rows)
        coin = uniform((rows,), like, rng)
        if self.ways == "switch":
            return (part > 0).to(like)
        sign = torch.where(coin < 0.5, -1.0, 1.0).to(like) if self.ways == "both" else 1.0
        return sign * self.full * part

    def drawn(self, strength: Strength, rows: int, like: Tensor, rng: torch.Generator) -> Tensor:
        """The amounts (rows,) of examples under a strength: uniform from zero to it, or to both
        sides; of a switch 1 with that probability."""
        coin = uniform((rows,), like, rng)
        if self.ways == "switch":
            return (coin < spread(strength, coin)).to(like)
        share = 2 * coin - 1 if self.ways == "both" else coin
        return spread(strength, share) * share


def prepared(inputs: Tensor, memory: Memory | None, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The inputs after a change that is made while they are as operations take them: values in
    [0, 1] under a range, tokens in the numbers of operations under a vocabulary."""
    if memory is None:
        return change(inputs)
    if isinstance(memory, Range):
        return scaled(inputs, memory, change)
    return renumbered(inputs, memory, change)


def check(operation: Operation, name: str, inputs: Tensor) -> None:
    """HpoError unless the inputs are of the kind, the channels and the type it works on."""
    if inputs.ndim != _DIMENSIONS[operation.kind]:
        raise HpoError(
            f"{name} needs inputs of shape {SHAPES[operation.kind]}, found {tuple(inputs.shape)}",
            hint=_HINTS.get((operation.kind, inputs.ndim), "leave this knob out"),
            code="bad-batch",
        )
    if inputs.is_floating_point() == (operation.kind == "tokens"):
        wanted = "whole" if operation.kind == "tokens" else "floating-point"
        raise HpoError(
            f"{name} needs {wanted} numbers, found {inputs.dtype}",
            hint="it is for token numbers: leave this knob out"
            if operation.kind == "tokens"
            else "let batches() return .float() tensors, or leave this knob out",
            code="bad-batch",
        )
    if operation.channels is not None and inputs.shape[1] != operation.channels:
        raise HpoError(
            f"{name} needs {operation.channels} channels, found {inputs.shape[1]}",
            hint="grey images have no colour to change: leave this knob out",
            code="bad-batch",
        )


def as_regularizer(name: str, operation: Operation) -> Regularizer:
    """The operation by itself, as a regularizer: its strength is the largest amount, of which each
    example draws its own."""
    knob = f"augment.{name}"

    def change(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
        return _changed(batch, h, rng, None)

    def change_within(memory: Memory, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
        return _changed(batch, h, rng, memory)

    def _changed(batch: Batch, h: Strengths, rng: torch.Generator, memory: Memory | None) -> Batch:
        import torch

        inputs = batch.inputs
        check(operation, knob, inputs)
        like = inputs if inputs.is_floating_point() else torch.zeros((), device=inputs.device)
        amounts = operation.drawn(h[knob], len(inputs), like, rng)

        def applied(x: Tensor) -> Tensor:
            return operation.apply(x, amounts, rng)

        changed = prepared(inputs, memory, applied)
        # Rounding would change an example that is to stay.
        still = (amounts == 0).reshape(-1, *[1] * (inputs.ndim - 1))
        return batch._replace(inputs=torch.where(still, inputs, changed.to(inputs.dtype)))

    return Regularizer(
        knobs={knob: operation.knob},
        stage="augment",
        batch=change if operation.remember is None else change_within,
        remember=operation.remember,
        differentiable=operation.differentiable,
        surrogate=operation.surrogate,
        note=operation.note,
    )
