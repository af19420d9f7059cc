"""Each image is continued beyond its border and cropped at random; the amount is how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def place(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shares of the amount, down and right, uniform in [-1, 1)."""
    return 2 * uniform((len(images), 2), images, rng) - 1


def crop(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Shifts by whole pixels, up to the amount times the height and the width, each axis by its
    own draw: nothing is interpolated. Magnitude 1 is 4 pixels of 32 (He et al. 2016, section 4.2).
    """
    height, width = images.shape[2:]
    down = _source(amounts * draws[:, 0], height)[:, None, :, None]
    right = _source(amounts * draws[:, 1], width)[:, None, None, :]
    rows = images.gather(2, down.expand(-1, images.shape[1], -1, width))
    return rows.gather(3, right.expand_as(images))


def _source(share: Tensor, length: int) -> Tensor:
    """Which pixel of the source each of `length` pixels shows, (B, length)."""
    import torch

    pixels = torch.arange(length, device=share.device)
    return (pixels + (share * length).round()[:, None].long()).clamp(0, length - 1)


OPERATION = Operation(
    kind="image",
    apply=Split(crop, place),
    knob=Float(0.0, 0.25, start=0.06, off=0.0, limits=(0.0, 1.0)),
    full=0.125,
    note="a share of the image's size, rounded to whole pixels",
)
