"""Jitter: Gaussian noise on a series, as large as a share of its own variation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.domains import Float
from search_spaces.regularizer import normal_like, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def shake(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """x + amount * sd(x) * e with e standard normal (Um et al. 2017, for series of deviation 1).

    sd is the standard deviation of each channel over time, so that the amount means the same in
    any unit; a channel that is constant stays so.
    """
    noise = normal_like(series, rng) * series.std(-1, unbiased=False, keepdim=True)
    return series + spread(amount, series) * noise


OPERATION = Operation(
    kind="series",
    apply=shake,
    knob=Float(0.0, 1.0, start=0.03, off=0.0, limits=(0.0, float("inf"))),
    full=0.5,
    differentiable=True,
    note="noise on each point, as a share of the channel's own standard deviation",
)
