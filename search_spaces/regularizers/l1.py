"""L1 penalty: the sum of the weights' absolute values, in the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import matrices, precise, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum of |w| over matrices and filters (Tibshirani 1996).

    At w = 0 the slope is taken as zero. Plain gradient steps bring weights near zero, not to it:
    what counts as pruned needs a threshold (Prasetyo et al. 2023 prune transformers after it).
    """
    terms = [precise(weight).abs().sum() for weight in matrices(parameters).values()]
    return scaled_sum(h["l1"], terms)


REGULARIZER = Regularizer(
    knobs={"l1": Float(1e-8, 0.1, scale="log", start=1e-5, off=0.0, limits=(0.0, float("inf")))},
    penalty=penalty,
    differentiable=True,
    note="coupled: a part of the loss; drives weights towards zero one by one",
)
