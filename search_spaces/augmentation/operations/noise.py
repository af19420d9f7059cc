"""Gaussian noise on each image; the amount is its standard deviation in the range of values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float
from search_spaces.regularizer import normal_like

if TYPE_CHECKING:
    from torch import Tensor


def add(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """x + amount n, clamped, with n standard normal for each value (as an augmentation: Sietsma
    and Dow 1991). Magnitude 1 is 0.2."""
    return (images + column(amounts, images) * draws).clamp(0, 1)


OPERATION = Operation(
    kind="image",
    apply=Split(add, normal_like),
    knob=Float(0.0, 0.3, start=0.05, off=0.0, limits=(0.0, float("inf"))),
    full=0.2,
    valued=True,
    differentiable=True,
    note="a share of the range of values; input_noise is in the units of the inputs",
)
