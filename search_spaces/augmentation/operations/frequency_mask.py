"""Frequency mask: a band of frequencies is taken out of a series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def mask(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """The series without a band that is a share `amount` of all frequencies above zero.

    The band lies at a uniformly drawn place, as in SpecAugment (Park et al. 2019, section 2), and
    is the same in all channels; the mean stays. A frequency k of the discrete Fourier transform
    stands for [k - 1/2, k + 1/2] and keeps the share of it that lies outside the band, which gives
    the amount a gradient.
    """
    import torch

    spectrum = torch.fft.rfft(series.double() if series.dtype == torch.float64 else series.float())
    count = spectrum.shape[-1] - 1
    wide = amount * count
    low = 0.5 + uniform((len(series),), series, rng) * (count - wide)
    middle = torch.arange(count + 1, device=series.device, dtype=series.dtype)
    ends = (middle + 0.5).minimum((low + wide)[:, None]), (middle - 0.5).maximum(low[:, None])
    hidden = (ends[0] - ends[1]).clamp(min=0)[:, None, :]
    changed: Tensor = torch.fft.irfft(spectrum * (1 - hidden), n=series.shape[-1])
    return changed.to(series.dtype)


OPERATION = Operation(
    kind="series",
    apply=mask,
    knob=Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.3,
    differentiable=True,
    note="takes out a band, so large a share of the frequencies",
)
