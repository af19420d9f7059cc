"""How sure the direction of a gradient is, from a stretch of noisy ones that hang together."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 30  # values from which something is said
SURE = 2.0  # the certainty from which a direction counts as one
_MOST = 1000.0
# A mean of pure noise is this many standard errors from zero one time in five thousand: a run is
# looked at many times, and in nineteen of twenty runs no look may find a direction in noise.
_NORMAL = 3.7


def certainty(values: Tensor) -> Tensor:
    """|mean| / standard error of each column of `values` (steps, columns), on the CPU, in double.

    Neighbours are alike, so the standard error counts effective values only: the variance times the
    autocorrelation time. It is also widened for how few they are (Student's t), such that `SURE`
    is exceeded by pure noise one time in five thousand, whatever their number. Gradients fade as
    training goes on; the values are put on one level first. 0 where too little is known to say
    anything.
    """
    values = values.detach().double().cpu()
    steps = len(values)
    if steps < LEAST:
        return torch.zeros(values.shape[1], dtype=torch.float64)
    values = _levelled(values)
    mean = values.mean(0)
    apart = values - mean
    variance = apart.square().mean(0)
    still = variance <= (1e-9 * mean).square()
    effective = steps / _correlation_time(apart, torch.where(still, 1.0, variance))
    freedom = (effective - 1).clamp(min=1e-3)
    error = (variance / freedom).sqrt()  # variance * n / (n - 1) / n, with n effective values
    found = mean.abs() / torch.where(still, 1.0, error * _widened(freedom) / SURE)
    found = torch.where(freedom < 3, 0.0, found.clamp(max=_MOST))
    return torch.where(still, torch.where(mean == 0, 0.0, _MOST), found)


def _levelled(values: Tensor) -> Tensor:
    """The values without the exponential trend of their sizes, which says nothing of their signs:
    noise stays noise, and a direction that fades is as steady as one that does not."""
    sizes = values.abs().clamp(min=1e-300).log()
    place = torch.linspace(-1, 1, len(values), dtype=values.dtype)[:, None]
    trend = (place * sizes).sum(0) / place.square().sum()
    return values * (-trend * place).exp()


def _correlation_time(apart: Tensor, variance: Tensor) -> Tensor:
    """How many values count as one: the larger of two estimates, for both are often too small.

    The first sums autocorrelations while those of two lags together are positive (Geyer, 1992), the
    second takes the first of them as that of an autoregression, corrected for the bias that the
    estimated mean gives it (Kendall, 1954).
    """
    steps = len(apart)

    def correlation(lag: int) -> Tensor:
        return (apart[:-lag] * apart[lag:]).sum(0) / steps / variance

    summed = torch.ones_like(variance)
    positive = torch.ones_like(variance, dtype=torch.bool)
    for lag in range(1, steps // 2 - 1, 2):
        pair = correlation(lag) + correlation(lag + 1)
        positive &= pair > 0
        if not bool(positive.any()):
            break
        summed += torch.where(positive, 2 * pair, 0.0)
    first = ((steps * correlation(1) + 1) / (steps - 4)).clamp(0.0, 0.99)
    return torch.maximum(summed, (1 + first) / (1 - first))


def _widened(freedom: Tensor) -> Tensor:
    """The quantile of Student's t that belongs to the normal one (Abramowitz and Stegun 26.7.5)."""
    z = _NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    found = torch.full_like(freedom, z)
    for power, term in enumerate(terms, start=1):
        found += term / freedom**power
    return found
