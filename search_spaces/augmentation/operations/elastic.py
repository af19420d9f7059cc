"""The pixels of each image move by smoothed noise; the amount is how far, in shares of its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.augmentation.warps import displaced
from search_spaces.domains import Float
from search_spaces.regularizer import normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMOOTH = 1 / 7  # standard deviation of the filter as a share of the size: 4 of 28 pixels


def noise(images: Tensor, rng: torch.Generator) -> Tensor:
    """Two standard normal numbers for each pixel."""
    return normal((len(images), 2, *images.shape[2:]), images, rng)


def bend(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Moves each pixel by the amount times a Gaussian field, right and down, of variance 1 at each
    pixel: white noise under a Gaussian filter (Simard et al. 2003, with sigma 4 for 28 pixels as
    there). Magnitude 1 is 0.05, or 1.4 of 28 pixels."""
    rows, columns = (_filter(length, draws) for length in draws.shape[2:])
    return displaced(images, column(amounts, draws) * (rows @ draws @ columns.T))


def _filter(length: int, like: Tensor) -> Tensor:
    """The filter along an axis, (length, length); it keeps the variance of white noise."""
    import torch

    places = torch.arange(length, dtype=like.dtype, device=like.device)
    apart = (places[:, None] - places) / (SMOOTH * length)
    weights = torch.exp(-apart.square() / 2)
    return weights / weights.square().sum(1, keepdim=True).sqrt()


OPERATION = Operation(
    kind="image",
    apply=Split(bend, noise),
    knob=Float(0.0, 0.1, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.05,
    differentiable=True,
    note="standard deviation of the way of a pixel, as a share of the image's size",
)
