"""An operation in two steps: draws for every example, then the change of any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """An `apply` whose draws are apart, so that a policy can make them for every example and then
    change only those that the operation was chosen for.

    change: (examples, amounts, draws) -> examples. draw: (examples, generator) -> draws, one row
    for each example, from the shape and type of the examples alone; None if there is nothing to
    draw, and then the draws are the amounts themselves, to be ignored.
    """

    change: Callable[[Tensor, Tensor, Tensor], Tensor]
    draw: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __call__(self, examples: Tensor, amounts: Tensor, rng: torch.Generator) -> Tensor:
        draws = amounts if self.draw is None else self.draw(examples, rng)
        return self.change(examples, amounts, draws)


def column(amounts: Tensor, like: Tensor) -> Tensor:
    """The amounts (B,) in a shape that multiplies `like` example by example."""
    return amounts.reshape(-1, *[1] * (like.ndim - 1))
