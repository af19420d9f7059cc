"""Each image's values are raised to a power; the amount is its logarithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-9  # values below are as good as zero, which has no logarithm


def raised(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """x^exp(amount): darker above zero, brighter below. Magnitude 1 is 0.7, a power between one
    half and two."""
    return images.clamp(LEAST, 1).pow(column(amounts, images).exp())


OPERATION = Operation(
    kind="image",
    apply=Split(raised),
    knob=Float(0.0, 1.1, start=0.2, off=0.0, limits=(0.0, float("inf"))),
    full=0.7,
    ways="both",
    valued=True,
    differentiable=True,
    note="logarithm of the power: 0.7 is from one half to two, 1.1 from a third to three",
)
