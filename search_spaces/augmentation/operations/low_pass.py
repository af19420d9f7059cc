"""Each image loses its fine detail; the amount is the share of the frequencies cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def coarse(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Keeps a centred window of the Fourier transform, 1 - amount of its height and width: the
    low-frequency crop of EfficientTrain (Wang et al. 2023, section 4.1), brought back to the size
    of the image.

    A frequency that the window covers in part is kept in part, which gives a gradient. Magnitude 1
    is 4/7: a window of 96 for images of 224 pixels, where their training begins.
    """
    import torch

    # There are no transforms in half precision.
    spectrum = torch.fft.fft2(images if images.dtype == torch.float64 else images.float())
    rows = _window(amounts, images.shape[2])[:, None, :, None]
    columns = _window(amounts, images.shape[3])[:, None, None, :]
    kept: Tensor = torch.fft.ifft2(spectrum * rows * columns)
    return kept.real.to(images.dtype)


def _window(amounts: Tensor, length: int) -> Tensor:
    """How much of each frequency is kept, (B, length)."""
    import torch

    waves: Tensor = torch.fft.fftfreq(length, device=amounts.device, dtype=amounts.dtype) * length
    half = (1 - amounts)[:, None] * (length / 2)
    return (half - waves.abs() + 1).clamp(0, 1)


OPERATION = Operation(
    kind="image",
    apply=Split(coarse),
    knob=Float(0.0, 0.8, start=0.2, off=0.0, limits=(0.0, 1.0)),
    full=4 / 7,
    differentiable=True,
    note="the share of the frequencies of each axis that is cut off",
)
