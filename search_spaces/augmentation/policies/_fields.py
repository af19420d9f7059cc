"""Eight changes of an image with a gradient in their amounts: one warp, then two of its tones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces import catalogue
from search_spaces.augmentation.fused import fused
from search_spaces.augmentation.split import column
from search_spaces.augmentation.values import Range

if TYPE_CHECKING:
    from torch import Tensor

WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "scale")
TONES = ("brightness", "contrast")
NAMES = (*WARPS, *TONES)


def full(like: Tensor) -> Tensor:
    """The amounts that the operations call full, (8,)."""
    return like.new_tensor([catalogue.operation(name).full for name in NAMES])


def moved(inputs: Tensor, amounts: Tensor, values: Range) -> Tensor:
    """The images after all changes by amounts (B, 8), in the order of NAMES; those whose amounts
    are all zero stay exactly as they are."""
    import torch

    operations = [catalogue.operation(name) for name in NAMES]
    nothing = torch.Generator()  # these draw nothing
    found = fused(inputs, operations, amounts, nothing, values)
    return torch.where(column((amounts == 0).all(1), inputs), inputs, found)
