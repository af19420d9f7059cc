"""Norm loss: pulls the length of every row and filter softly to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import lengths, matrices, rows, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum over rows and filters of (1 - |w_row|)^2 (Georgiou et al. 2021).

    Its minima are the oblique manifold, matrices with rows of length one: it takes the place of
    weight decay and, unlike that, has no pull to zero. A row of zeros, which has no direction,
    stays where it is. (The formula is derived from that property, which is tested.)
    """
    terms = [(1 - lengths(rows(weight))).square().sum() for weight in matrices(parameters).values()]
    return scaled_sum(h["norm_loss"], terms)


REGULARIZER = Regularizer(
    knobs={
        "norm_loss": Float(1e-5, 0.1, scale="log", start=1e-3, off=0.0, limits=(0.0, float("inf")))
    },
    penalty=penalty,
    differentiable=True,
    note="coupled; use it in place of l2 or weight_decay, not beside them",
)
