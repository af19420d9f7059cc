"""Knobs of the optimizer's step, such as decoupled weight decay: how one such step moves the
weights, and what that does to the validation loss (T1-T2, Luketina et al., ICML 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
        moved = {name: weight.detach().clone() for name, weight in weights.items()}
        beside = center.clone()
        beside[column] += sign * _NEAR
        step(moved, beside, rate)
        products = [(moved[name] * grad).sum() for name, grad in grads.items()]
        total += sign * float(torch.stack(products).sum())
    return total / (2 * _NEAR * rate)
