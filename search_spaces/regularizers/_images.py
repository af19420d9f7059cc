"""What the image augmentations share: the shape they need, and the affine map of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError
from search_spaces.regularizer import Strength, real, spread, uniform

if TYPE_CHECKING:
    import torch
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


def symmetric(strength: Strength, count: int, inputs: Tensor, rng: torch.Generator) -> Tensor:
    """`count` draws from U(-strength, strength) for each example, shape (B, count)."""
    draws = 2 * uniform((len(inputs), count), inputs, rng) - 1
    return spread(strength, draws) * draws


def warped(inputs: Tensor, rows: list[list[Tensor]], strength: Strength) -> Tensor:
    """The images under an affine map each; an example of strength zero stays exactly as it is.

    `rows` are the two rows of three of the map from places in the result to places in the
    source, each number of shape (B,), in coordinates that run from -1 to 1 over the image.
    Between pixels it interpolates linearly; what comes from outside is zero.
    """
    import torch
    from torch.nn import functional

    precise = inputs if inputs.dtype == torch.float64 else inputs.float()
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).to(precise.dtype)
    grid = _grid(matrix, *inputs.shape[2:])
    moved = functional.grid_sample(precise, grid, padding_mode="zeros", align_corners=False)
    # Rounding in the grid would blur an image that is not to move.
    still = torch.as_tensor(spread(strength, inputs), device=inputs.device) == 0
    return torch.where(still, inputs, moved.to(inputs.dtype))


def _grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """`affine_grid` of these maps, (B, height, width, 2), in operations that `torch.vmap` has."""
    import torch
    from torch.nn import functional

    identity = torch.eye(2, 3, dtype=matrix.dtype, device=matrix.device)
    places = functional.affine_grid(identity[None], [1, 1, height, width], align_corners=False)
    places = functional.pad(places.reshape(-1, 2), (0, 1), value=1.0)
    return (places @ matrix.transpose(1, 2)).reshape(-1, height, width, 2)
