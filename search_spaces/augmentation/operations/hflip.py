"""Images are mirrored left to right; the strength is the probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def mirror(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """The mirror image at amount 1 (Krizhevsky et al. 2012, section 4.1)."""
    return images.lerp(images.flip(3), column(amounts, images))


OPERATION = Operation(
    kind="image",
    apply=Split(mirror),
    knob=Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=1.0,
    ways="switch",
    note="the probability; not for letters, digits and whatever else has a left and a right",
)
