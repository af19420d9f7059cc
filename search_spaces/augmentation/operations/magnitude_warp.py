"""Magnitude warp: a series is made larger and smaller by a factor that changes slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.operations._series import slow
from search_spaces.domains import Float
from search_spaces.regularizer import spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def warp(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """x(t) * exp(amount * s_c(t)) with a slow curve s_c through 4 normal knots for each channel.

    Um et al. (2017) multiply by a cubic spline through knots from N(1, amount^2): the same to first
    order; the exponential keeps the sign of the values.
    """
    curves = slow(series, series.shape[1], series.shape[2], rng)
    return series * (spread(amount, series) * curves).exp()


OPERATION = Operation(
    kind="series",
    apply=warp,
    knob=Float(0.0, 1.0, start=0.05, off=0.0, limits=(0.0, float("inf"))),
    full=0.5,
    differentiable=True,
    note="a slowly changing factor for each channel",
)
