"""Nested dropout: of the units at a dropout layer the last ones go, so that the first matter most;
the strength is the share of examples that lose any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, real, spread, uniform
from search_spaces.regularizers._channels import channel_dimension

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def cut(x: Tensor, h: Strengths, rng: torch.Generator, site: nn.Module) -> Tensor:
    """Keeps the first k of D units, k drawn for each example, and does not scale them.

    k is geometric (Rippel, Gelbart and Adams 2014), stopped at D: P(k > j) = (1 - t)^(j / (D - 1))
    for j < D. The strength t is then the probability that any unit goes, whatever D is, at t = 0
    none does, and with q = (1 - t)^(1 / (D - 1)) the mean of k is (1 - q^D) / (1 - q). The first
    unit always stays. [From memory: that the paper's k is geometric. To write its rate as t is
    ours. Tested: the distribution of k.] Chen et al. 2021, who use it against wrong labels, draw k
    from half a normal distribution, for a batch at a time, and do not scale either.

    Units are the channels of (B, C, H, W), the features of (B, T, D) and (B, D).
    """
    import torch

    if x.ndim < 2:
        return x  # a single unit
    strength = spread(h["nested_dropout"], real(x, "nested_dropout"))
    place = channel_dimension(x, site)
    units = x.shape[place]
    shape = [1] * x.ndim
    shape[place] = units
    coin = uniform([len(x), *[1] * (x.ndim - 1)], x, rng)
    share = torch.linspace(0, 1, units, device=x.device, dtype=coin.dtype).reshape(shape)
    return x * (coin >= 1 - (1 - strength) ** share)


REGULARIZER = Regularizer(
    knobs={"nested_dropout": Float(0.0, 0.95, start=0.1, off=0.0, limits=(0.0, 0.999))},
    activation=cut,
    note="acts where the model has dropout layers, beside their own rate; orders the units",
)
