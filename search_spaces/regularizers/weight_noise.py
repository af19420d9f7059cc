"""Gaussian noise on the weights during each training step; the strength is relative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, normal_like, pooled

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def shake(
    parameters: Mapping[str, Tensor], h: Strengths, rng: torch.Generator
) -> Mapping[str, Tensor]:
    """w + strength * rms(w) * e with e standard normal, for matrices and filters.

    rms(w) is the root mean square of the whole tensor, taken as a constant: the gradient at the
    noisy weights is the one the clean weights get. Biases and gains, which are vectors, stay.
    (Noise during training: An 1996; relative to the weights: Murray and Edwards 1994, there for
    each weight by itself.)
    """
    strength = pooled(h["weight_noise"])
    shaken = dict(parameters)
    for name, weight in parameters.items():
        if weight.ndim >= 2:
            size = weight.detach().square().mean().sqrt()
            noise = normal_like(weight, rng) * size
            shaken[name] = weight + (strength * noise).to(weight.dtype)
    return shaken


REGULARIZER = Regularizer(
    knobs={"weight_noise": Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, float("inf")))},
    parameter=shake,
    differentiable=True,
    note="relative to the root mean square of each weight tensor; drawn anew for each step",
)
