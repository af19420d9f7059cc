"""Each image gets softer or sharper; the amount is how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def sharpen(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """x + amount (x - s), clamped, with s the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]]
    / 13, which leaves the outermost pixels alone (PIL's filter). Magnitude 1 is a factor of 0.1 to
    1.9 (Cubuk et al. 2019, table 6)."""
    inside = images[:, :, 1:-1, 1:-1]
    across = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    box = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    sharper = inside + column(amounts / 13, images) * (9 * inside - box)
    found = images.clone()
    found[:, :, 1:-1, 1:-1] = sharper
    return found.clamp_(0, 1)


OPERATION = Operation(
    kind="image",
    apply=Split(sharpen),
    knob=Float(0.0, 0.9, start=0.1, off=0.0, limits=(0.0, float("inf"))),
    full=0.9,
    ways="both",
    valued=True,
    differentiable=True,
    note="the factor lies up to this much below or above 1; at 0 it is a blur",
)
