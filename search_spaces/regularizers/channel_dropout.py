"""Dropout of whole channels at the model's dropout layers; the strength is the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, real, spread, uniform
from search_spaces.regularizers._channels import by_feature

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def drop(x: Tensor, h: Strengths, rng: torch.Generator, site: nn.Module) -> Tensor:
    """Keeps a channel where a uniform draw reaches the rate p, and scales it by 1 / (1 - p).

    (Tompson et al. 2015.) Neighbouring pixels of a channel say much the same, so that
    dropping single ones hides little. A channel of (B, C, H, W) is one of C; of (B, T, D), as in a
    transformer, one of the D features, the same at all T places (Gal and Ghahramani 2016); of
    (B, D) a single unit. At `nn.Dropout1d` it is always the second dimension.
    """
    rate = spread(h["channel_dropout"], real(x, "channel_dropout"))
    kept = uniform(by_feature(x, site), x, rng) >= rate
    return x * kept / (1 - rate)


REGULARIZER = Regularizer(
    knobs={"channel_dropout": Float(0.0, 0.7, start=0.05, off=0.0, limits=(0.0, 0.99))},
    activation=drop,
    note="acts where the model has dropout layers, beside their own rate; whole channels",
)
