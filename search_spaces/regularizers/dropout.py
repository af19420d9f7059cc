"""Dropout at the model's own dropout layers; the strength is the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, by_channel, real, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def drop(x: Tensor, h: Strengths, rng: torch.Generator, site: nn.Module) -> Tensor:
    """Keeps an entry where a uniform draw reaches the rate p, and scales it by 1 / (1 - p).

    At `nn.Dropout1d`, `2d` and `3d` whole channels are kept or dropped; at a layer that is no
    plain dropout (alpha dropout has rules of its own) nothing happens.
    """
    from torch import nn

    if not isinstance(site, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return x
    rate = spread(h["dropout"], real(x, "dropout"))
    kept = uniform(by_channel(x, site), x, rng) >= rate
    return x * kept / (1 - rate)


REGULARIZER = Regularizer(
    # A rate of 1 would divide by zero; training is unstable long before it.
    knobs={"dropout": Float(0.0, 0.7, start=0.05, off=0.0, limits=(0.0, 0.99))},
    activation=drop,
    replaces_dropout=True,
    note="acts where the model has dropout layers; their own rate is replaced",
)
