"""Each image's values move towards their mean or away from it; the amount is how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.tones import Linear, grey
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def spread_out(images: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
    """x + amount (x - m), clamped, with m the mean luma of the image; magnitude 1 is a factor of
    0.1 to 1.9 (Cubuk et al. 2019, table 6)."""
    mean = grey(images).mean((1, 2, 3))
    return (1 + amounts)[:, None], (-amounts * mean)[:, None]


OPERATION = Operation(
    kind="image",
    apply=Linear(spread_out),
    knob=Float(0.0, 0.9, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=0.9,
    ways="both",
    valued=True,
    differentiable=True,
    note="the factor lies up to this much below or above 1",
)
