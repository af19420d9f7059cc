"""The shape that what changes images needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError

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
    if not inputs.is_floating_point():
        raise HpoError(
            f"{user} needs floating-point numbers, found {inputs.dtype}",
            hint="let batches() return .float() tensors, or leave its knobs out",
            code="bad-batch",
        )
    return inputs
