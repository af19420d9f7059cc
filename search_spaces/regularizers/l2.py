"""L2 penalty: half the squared length of the weights, in the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import matrices, precise, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength / 2 * sum of w^2 over matrices and filters; biases and gains are vectors."""
    terms = [0.5 * precise(weight).square().sum() for weight in matrices(parameters).values()]
    return scaled_sum(h["l2"], terms)


REGULARIZER = Regularizer(
    knobs={"l2": Float(1e-7, 1.0, scale="log", start=1e-4, off=0.0, limits=(0.0, float("inf")))},
    penalty=penalty,
    differentiable=True,
    note="coupled: a part of the loss, so that methods inside a run can tune it",
)
