"""What every solver of the inner problem gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Minimum:
    """Where a solver of the inner problem stopped.

    slope: the gradient there (n,); of a problem with a proximal part, the step of the proximal
    gradient method divided by its length. pairs: (step, change of the gradient) of the last
    iterations, the newest last, each up to a factor. reached: whether |slope| came below the
    tolerance.
    """

    x: Tensor
    slope: Tensor
    iterations: int
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()
    reached: bool = True


def norm(slope: Tensor) -> float:
    """The size of a gradient, where nothing else is asked of it."""
    return float(slope.norm())
