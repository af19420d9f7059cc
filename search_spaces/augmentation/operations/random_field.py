"""The pixels of each image move by a random field; the amount is how far, in shares of its size."""

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

DECAY = 4.0  # the power of the wave number by which the power of the waves falls


def noise(images: Tensor, rng: torch.Generator) -> Tensor:
    """Two standard normal numbers for each pixel."""
    return normal((len(images), 2, *images.shape[2:]), images, rng)


def bend(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Moves each pixel by the amount times a Gaussian random field, right and down, of variance 1
    at each pixel and a power spectrum |k|^-DECAY without the constant: waves of all lengths, the
    long ones strongest, and periodic. White noise is filtered in the Fourier domain (Bardeen et
    al. 1986; as an augmentation Mansfield et al. 2023). Magnitude 1 is 0.05."""
    import torch

    if draws.dtype != torch.float64:
        draws = draws.float()  # there are no transforms in half precision
    height, width = draws.shape[2:]
    down = torch.fft.fftfreq(height, device=draws.device, dtype=draws.dtype) * height
    right = torch.fft.fftfreq(width, device=draws.device, dtype=draws.dtype) * width
    waves = (down[:, None].square() + right.square()).clamp(min=1).pow(-DECAY / 4)
    waves[0, 0] = 0
    waves = waves / waves.square().mean().sqrt()
    field = torch.fft.ifft2(torch.fft.fft2(draws) * waves).real
    return displaced(images, column(amounts, draws) * field)


OPERATION = Operation(
    kind="image",
    apply=Split(bend, noise),
    knob=Float(0.0, 0.1, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.05,
    differentiable=True,
    note="standard deviation of the way of a pixel, as a share of the image's size",
)
