"""A square of each image is blanked; the amount is its side, as a share of the shorter one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import covered
from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def centre(images: Tensor, rng: torch.Generator) -> Tensor:
    """A place, uniform over the image, as shares of its height and width."""
    return uniform((len(images), 2), images, rng)


def cut(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Sets a square to the mean of each channel; it may stick out over an edge (cutout: DeVries
    and Taylor 2017, whose zero is the mean of standardised images).

    A pixel that the square covers in part is blanked in part, which makes the result continuous in
    the amount and gives it a gradient. Magnitude 1 is half of the side, as for CIFAR-10 there.
    """
    height, width = images.shape[2:]
    side = amounts * min(height, width)
    rows = covered(draws[:, 0] * height, side, height)[:, None, :, None]
    columns = covered(draws[:, 1] * width, side, width)[:, None, None, :]
    return images.lerp(images.mean((2, 3), keepdim=True), (rows * columns).to(images.dtype))


OPERATION = Operation(
    kind="image",
    apply=Split(cut, centre),
    knob=Float(0.0, 0.7, start=0.2, off=0.0, limits=(0.0, float("inf"))),
    full=0.5,
    differentiable=True,
    note="the side of the hole as a share of the image's shorter side",
)
