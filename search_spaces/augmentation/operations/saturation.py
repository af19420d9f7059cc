"""Each image's colours get paler or stronger; the amount is how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.tones import away, grey
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def colour(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """x + amount (x - g), clamped, with g the luma of the pixel: grey at -1. It is the operation
    `Color` of Cubuk et al. (2019, table 6), whose magnitude 1 is a factor of 0.1 to 1.9."""
    return away(images, amounts, grey(images))


OPERATION = Operation(
    kind="image",
    apply=Split(colour),
    knob=Float(0.0, 0.9, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=0.9,
    ways="both",
    valued=True,
    channels=3,
    differentiable=True,
    note="the factor lies up to this much below or above 1",
)
