"""Each image is shifted in a direction of its own; the amount is a share of its size."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.warps import matrix, warped
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def direction(images: Tensor, rng: torch.Generator) -> Tensor:
    """An angle, uniform over the circle."""
    return 2 * pi * uniform((len(images),), images, rng)


def shift(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Shifts by the amount times (cos a, sin a) of the width and of the height, with the angle a
    drawn; ways between whole pixels interpolate. (Tuned within a run by Bae and Grosse 2020.)"""
    right, down = amounts * draws.cos(), amounts * draws.sin()
    return warped(images, matrix((0.0, 0.0, 0.0, right, down, 0.0), amounts, images))


OPERATION = Operation(
    kind="image",
    apply=Split(shift, direction),
    knob=Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, 1.0)),
    full=0.33,
    differentiable=True,
    note="a share of the image's size, in any direction",
)
