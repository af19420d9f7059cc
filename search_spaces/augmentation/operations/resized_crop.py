"""A part of each image is enlarged to the whole; the amount is the share of its area left out."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.warps import warped
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ASPECT = log(4 / 3)  # of the crop against that of the image, either way
LEAST = 0.01  # share of the area that is always left


def place(images: Tensor, rng: torch.Generator) -> Tensor:
    """The crop's aspect and where it lies, down and right, uniform in [-1, 1)."""
    return 2 * uniform((len(images), 3), images, rng) - 1


def zoom(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Shows a crop of 1 - amount of the area, of an aspect up to 4/3 either way as far as it fits,
    anywhere in the image. Magnitude 1 is 0.92, so that at least 8 percent are left (Szegedy et al.
    2015, section 6)."""
    import torch

    area = (1 - amounts).clamp(min=LEAST).log()
    aspect = draws[:, 0] * (-area).clamp(max=ASPECT)
    wide, tall = ((area + aspect) / 2).exp(), ((area - aspect) / 2).exp()
    zero = torch.zeros_like(wide)
    across = torch.stack([wide, zero, draws[:, 2] * (1 - wide)], dim=-1)
    down = torch.stack([zero, tall, draws[:, 1] * (1 - tall)], dim=-1)
    return warped(images, torch.stack([across, down], dim=-2))


OPERATION = Operation(
    kind="image",
    apply=Split(zoom, place),
    knob=Float(0.0, 0.92, start=0.2, off=0.0, limits=(0.0, 1.0 - LEAST)),
    full=0.92,
    differentiable=True,
    note="the share of the image's area that is left out",
)
