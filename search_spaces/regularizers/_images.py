"""The shape that mixes of images need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError
from search_spaces.regularizer import real

if TYPE_CHECKING:
    from torch import Tensor


def images(inputs: Tensor, purpose: str) -> Tensor:
    """The inputs themselves if they are images (B, C, H, W) of floating-point numbers."""
    if inputs.ndim != 4:
        raise HpoError(
            f"{purpose} needs images of shape (B, C, H, W), found inputs of shape "
            f"{tuple(inputs.shape)}",
            hint="grey images need a dimension for their one channel: let batches() return "
            "inputs.unsqueeze(1); for other inputs leave this knob out",
            code="bad-batch",
        )
    return real(inputs, purpose)
