"""Group lasso: the lengths of rows and filters, in the loss; whole units go towards zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import lengths, matrices, rows, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum over rows and filters of sqrt(n) * |w_row|, n entries in a row.

    The L2,1 norm; the factor sqrt(n) is that of Yuan and Lin 2006, so that what a row costs does
    not depend on how many inputs it has. The slope at a row of zeros is zero.
    """
    terms = []
    for weight in matrices(parameters).values():
        matrix = rows(weight)
        terms.append(math.sqrt(matrix.shape[1]) * lengths(matrix).sum())
    return scaled_sum(h["group_lasso"], terms)


REGULARIZER = Regularizer(
    knobs={
        "group_lasso": Float(
            1e-7, 0.1, scale="log", start=1e-5, off=0.0, limits=(0.0, float("inf"))
        )
    },
    penalty=penalty,
    differentiable=True,
    note="coupled; drives whole rows and filters towards zero together",
)
