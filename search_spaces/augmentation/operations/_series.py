"""Series (B, C, T): values between the points of time, and curves that change slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.regularizer import normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOTS = 4  # of a slow curve, as many as in Um et al. (2017)


def read(series: Tensor, places: Tensor) -> Tensor:
    """The series at these places (B, T) of time, in straight lines between its points.

    Before the first point and after the last one their values hold. It has a gradient in the
    places.
    """
    last = series.shape[-1] - 1
    places = places.clamp(0, last)
    before = places.detach().floor().clamp(max=max(last - 1, 0))
    part = (places - before)[:, None, :]
    first = before.long()[:, None, :].expand(-1, series.shape[1], -1)
    low, high = series.gather(2, first), series.gather(2, (first + 1).clamp(max=last))
    return low + (high - low) * part.to(series.dtype)


def slow(series: Tensor, curves: int, length: int, rng: torch.Generator) -> Tensor:
    """Slow random curves (B, curves, length): through standard normal knots, evenly spaced from
    the first point to the last, by cubic convolution (Keys 1981)."""
    from torch.nn import functional

    knots = normal((len(series), curves, 1, KNOTS), series, rng)
    size = (1, length)
    drawn = functional.interpolate(knots, size=size, mode="bicubic", align_corners=True)
    return drawn[:, :, 0, :]


def times(series: Tensor) -> Tensor:
    """The points of time 0, 1, ... T - 1, (T,)."""
    import torch

    return torch.arange(series.shape[-1], device=series.device, dtype=series.dtype)
