"""Images become their negatives; the strength is the probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.tones import Linear
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def negative(images: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
    """1 - x at amount 1 (Cubuk et al. 2019, table 6)."""
    return (1 - 2 * amounts)[:, None], amounts[:, None]


OPERATION = Operation(
    kind="image",
    apply=Linear(negative),
    knob=Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=1.0,
    ways="switch",
    valued=True,
    note="the probability",
)
