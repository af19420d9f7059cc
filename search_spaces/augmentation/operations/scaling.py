"""Scaling: each channel of a series is made larger or smaller as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.domains import Float
from search_spaces.regularizer import normal, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def scale(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """x * exp(amount * e) with one standard normal e for each channel.

    Um et al. (2017) draw the factor from N(1, amount^2). To first order in the amount that is the
    same; this one keeps the sign, and makes twice as large as often as half as large.
    """
    draws = normal((*series.shape[:2], 1), series, rng)
    return series * (spread(amount, series) * draws).exp()


OPERATION = Operation(
    kind="series",
    apply=scale,
    knob=Float(0.0, 1.0, start=0.05, off=0.0, limits=(0.0, float("inf"))),
    full=0.5,
    differentiable=True,
    note="one factor for each channel; the amount is the deviation of its logarithm",
)
