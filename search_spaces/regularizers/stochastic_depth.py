"""Stochastic depth: residual branches are left out; the strength is the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, real, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def drop(x: Tensor, h: Strengths, rng: torch.Generator, site: nn.Module) -> Tensor:
    """Keeps the whole branch of an example where a draw reaches the rate p, scaled by 1 / (1 - p).

    (Huang et al. 2016, equation 2, who scale the branch by 1 - p when they evaluate instead; the
    mean is the same.) Their rule that the rate grows linearly with depth to p_L, equation 4, is a
    knob with one strength for each branch: `size: L` and `start: [p_L / L, 2 p_L / L, ..., p_L]`.
    """
    rate = spread(h["stochastic_depth"], real(x, "stochastic_depth"))
    kept = uniform([len(x), *[1] * (x.ndim - 1)], x, rng) >= rate
    return x * kept / (1 - rate)


REGULARIZER = Regularizer(
    knobs={"stochastic_depth": Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, 0.99))},
    activation=drop,
    site="branch",
    replaces_dropout=True,
    note="acts at Branch(), DropPath and StochasticDepth layers; their own rate is replaced",
)
