"""Decoupled weight decay: every step shrinks the weights by learning rate times strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, pooled

if TYPE_CHECKING:
    from torch import Tensor


def decay(parameters: Mapping[str, Tensor], h: Strengths, learning_rate: float) -> None:
    """Multiplies matrices and filters by 1 - learning_rate * strength; vectors stay.

    Biases and the gains of normalisation layers are vectors: shrinking them does not simplify
    the model (Loshchilov and Hutter 2019 for the decoupling).
    """
    import torch

    # Below zero the factor would turn the weights around instead of shrinking them.
    factor = torch.as_tensor(1 - learning_rate * pooled(h["weight_decay"])).clamp(min=0.0)
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.ndim >= 2:
                parameter.mul_(factor.to(parameter))


REGULARIZER = Regularizer(
    knobs={
        "weight_decay": Float(
            1e-5, 10.0, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))
        )
    },
    optimizer=decay,
    note="decoupled: acts on the weights beside the optimizer's step; l2 is its twin in the loss",
)
