"""Eight changes of an image with a gradient in their amounts: one warp, then two of its tones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.policies import _each
from search_spaces.augmentation.values import Range
from search_spaces.augmentation.warps import matrix, warped

if TYPE_CHECKING:
    from torch import Tensor

WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "scale")
TONES = ("brightness", "contrast")
NAMES = (*WARPS, *TONES)


def full(like: Tensor) -> Tensor:
    """The amounts that the operations call full, (8,)."""
    return like.new_tensor([_each.operation(name).full for name in NAMES])


def moved(inputs: Tensor, amounts: Tensor, values: Range) -> Tensor:
    """The images after all changes by amounts (B, 8), in the order of NAMES; those whose amounts
    are all zero stay exactly as they are."""
    import torch

    parts = amounts[:, : len(WARPS)]
    found = warped(inputs, matrix(list(parts.unbind(1)), parts[:, 0], inputs))
    rows = torch.arange(len(inputs), device=inputs.device)
    nothing = torch.Generator()  # these draw nothing
    for place, name in enumerate(TONES, start=len(WARPS)):
        found = _each.at_amounts(name, found, rows, amounts[:, place], values, nothing)
    still = (amounts == 0).all(1).reshape(-1, 1, 1, 1)
    return torch.where(still, inputs, found)
