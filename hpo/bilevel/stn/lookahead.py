"""Knobs of the optimizer's step, such as decoupled weight decay: how one such step moves the
weights, and what that does to the validation loss (T1-T2, Luketina et al., ICML 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Changes weights in place, for knobs at these free numbers and this learning rate.
Step = Callable[[Mapping[str, Tensor], Tensor, float], None]

_NEAR = 0.01  # how far the difference quotient looks, in free units


def slope(
    step: Step,
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    center: Tensor,
    column: int,
    rate: float,
) -> float:
    """d(validation loss) / d(free number of `column`), for one step of unit learning rate.

    grads: of the validation loss in the weights. rate: what the step is tried with; the quotient
    is scaled back to one, so its size does not fade with the learning rate.
    """
    total = 0.0
    for sign in (1, -1):
        beside = center.clone()
        beside[column] += sign * _NEAR
        total += sign * change(step, weights, grads, beside, rate)
    return total / (2 * _NEAR * rate)


def change(
    step: Callable[..., None],
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    *given: Any,
) -> float:
    """By how much the validation loss changes, to first order, where `step` is taken from these
    weights with what is given."""
    moved = {name: weight.detach().clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        moved[name].grad = weight.grad  # of the last step: what the step does may depend on it
    step(moved, *given)
    products = [((moved[name] - weights[name].detach()) * g).sum() for name, g in grads.items()]
    return float(torch.stack(products).sum())
