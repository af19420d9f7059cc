"""Cutout: a square of each image is blanked; the strength is its side in pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float, Int
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread, uniform
from search_spaces.regularizers._images import images

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def cut(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Sets a square of `cutout` pixels a side to zero in a share `cutout_probability` of images.

    Its centre is a uniformly drawn pixel, so that it may stick out over an edge (DeVries and
    Taylor 2017). Zero is the mean of standardised images. A side between whole numbers counts as
    the nearest.
    """
    inputs = images(batch.inputs, "cutout")
    height, width = inputs.shape[2:]
    down, right, coin = uniform((3, len(inputs)), inputs, rng)
    side = _whole(spread(h["cutout"], coin), coin)
    side = side * (coin < spread(h["cutout_probability"], coin))
    rows = _hidden(down, side, height)[:, None, :, None]
    columns = _hidden(right, side, width)[:, None, None, :]
    return batch._replace(inputs=inputs.masked_fill(rows & columns, 0.0))


def _whole(side: object, like: Tensor) -> Tensor:
    import torch

    return torch.as_tensor(side, dtype=like.dtype, device=like.device).round()


def _hidden(place: Tensor, side: Tensor, length: int) -> Tensor:
    """Which of `length` pixels lie in the square, (B, length); `place` in [0, 1) is its centre."""
    import torch

    first = (place * length).floor() - (side / 2).floor()
    pixels = torch.arange(length, device=place.device) - first[:, None]
    return (pixels >= 0) & (pixels < side[:, None])


REGULARIZER = Regularizer(
    knobs={
        "cutout": Int(0, 16, start=4, off=0, limits=(0, float("inf"))),
        "cutout_probability": Float(0.0, 1.0, start=1.0, limits=(0.0, 1.0)),
    },
    batch=cut,
    note="images only; the side of the hole in pixels, and the share of images that get one",
)
