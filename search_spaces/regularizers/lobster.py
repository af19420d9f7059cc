"""LOBSTER: every step shrinks the weights on which the loss hardly depends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, pooled

if TYPE_CHECKING:
    from torch import Tensor


def shrink(parameters: Mapping[str, Tensor], h: Strengths, learning_rate: float) -> None:
    """w -= learning_rate * strength * w * max(0, 1 - |dL/dw|), for matrices and filters.

    Tartaglione et al. 2022, where the step is not multiplied by the learning rate: their
    lambda is learning_rate * strength. So scaled it fades along with the learning rate, like
    weight_decay, which it is where all gradients are zero. A weight without a gradient has none.
    dL/dw is that of the step, as the optimizer gets it. Biases and gains stay.
    """
    import torch

    strength = torch.as_tensor(learning_rate * pooled(h["lobster"]))
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.ndim >= 2:
                kept = 1.0 if parameter.grad is None else (1 - parameter.grad.abs()).clamp(min=0.0)
                # Below zero the factor would turn weights around instead of shrinking them.
                factor = (1 - strength.to(parameter) * kept).clamp(min=0.0)
                parameter.mul_(factor)


REGULARIZER = Regularizer(
    knobs={
        "lobster": Float(1e-5, 10.0, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf")))
    },
    optimizer=shrink,
    note="decoupled weight decay, less where the loss's gradient is large",
)
