"""Images: the shape they need to have, and how much a box covers of their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError
from search_spaces.regularizer import real

if TYPE_CHECKING:
    from torch import Tensor


def images(inputs: Tensor, user: str) -> Tensor:
    """The inputs themselves if they are images (B, C, H, W) of floating-point numbers."""
    if inputs.ndim != 4:
        raise HpoError(
            f"{user} needs images of shape (B, C, H, W), found inputs of shape "
            f"{tuple(inputs.shape)}",
            hint="grey images need a dimension for their one channel: let batches() return "
            "inputs.unsqueeze(1); for other inputs leave its knobs out",
            code="bad-batch",
        )
    return real(inputs, user)


def covered(centre: Tensor, side: Tensor, length: int) -> Tensor:
    """How much of each of `length` pixels lies within half a side of the centre, (B, length)."""
    import torch

    pixels = torch.arange(length, device=centre.device)
    first, last = (centre - side / 2)[:, None], (centre + side / 2)[:, None]
    return (last.minimum(pixels + 1) - first.maximum(pixels)).clamp(min=0)
