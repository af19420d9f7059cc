"""Time warp: a series runs faster here and slower there, from the same start to the same end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.operations._series import read, slow
from search_spaces.domains import Float
from search_spaces.regularizer import spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def warp(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """The series read at places whose speed is exp(amount * s(t)), s a slow curve.

    As in Um et al. (2017) the speeds are added up and stretched so that the last point stays the
    last; they are above zero, so that time never runs backwards. All channels share the places.
    """
    import torch

    last = series.shape[-1] - 1
    if last < 1:
        return series
    speed = (spread(amount, series) * slow(series, 1, last, rng)).exp()[:, 0]
    passed = torch.cat([torch.zeros_like(speed[:, :1]), speed.cumsum(1)], 1)
    return read(series, passed * (last / passed[:, -1:]))


OPERATION = Operation(
    kind="series",
    apply=warp,
    knob=Float(0.0, 1.0, start=0.05, off=0.0, limits=(0.0, float("inf"))),
    full=0.7,
    differentiable=True,
    note="time runs unevenly; the amount is the deviation of the speed's logarithm",
)
