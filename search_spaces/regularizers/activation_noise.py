"""Gaussian noise on the activations at the model's dropout layers; the strength is relative."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, by_channel, normal, real, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def disturb(x: Tensor, h: Strengths, rng: torch.Generator, site: nn.Module) -> Tensor:
    """x * (1 + strength * e) with e standard normal (Srivastava et al. 2014, section 10).

    The mean stays, and a strength of sqrt(p / (1 - p)) has the variance of dropout at rate p.
    Noise that multiplies depends on the example alone, not on the batch it is in. At
    `nn.Dropout1d`, `2d` and `3d` a channel has one draw.
    """
    noise = normal(by_channel(real(x, "activation_noise"), site), x, rng)
    return x * (1 + spread(h["activation_noise"], x) * noise)


REGULARIZER = Regularizer(
    knobs={"activation_noise": Float(0.0, 1.0, start=0.05, off=0.0, limits=(0.0, float("inf")))},
    activation=disturb,
    differentiable=True,
    note="acts where the model has dropout layers, beside their own rate; multiplies",
)
