"""Masked L1: an L1 penalty on the smallest gains of norm layers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import (
    lengths,
    matrices,
    precise,
    rows,
    scaled_sum,
    smallest,
)

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum of |g| over the smallest `masked_l1_share` of the gains g of each norm layer.

    What is to be pruned is pressed to zero and what is to stay is left alone (MaskSparsity, Jiang
    et al. 2022). There a mask is found once by another pruning method; here it is the smallest
    gains of each step, and the one gain at the edge of the share counts by the part of it that
    belongs, which makes the sum continuous (this project's form of it). Gains are vectors whose
    name ends in "weight". Where none are given (a model without norms; with `size:` a layer without
    one) the lengths of rows and filters stand for them.
    """
    gains = [precise(p).abs() for name, p in parameters.items() if _is_gain(name, p)]
    sizes = gains or [lengths(rows(weight)) for weight in matrices(parameters).values()]
    terms = [(smallest(each, h["masked_l1_share"]) * each).sum() for each in sizes]
    return scaled_sum(h["masked_l1"], terms)


def _is_gain(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 1 and name.rsplit(".", 1)[-1] == "weight"


REGULARIZER = Regularizer(
    knobs={
        "masked_l1": Float(1e-6, 0.1, scale="log", start=1e-4, off=0.0, limits=(0.0, float("inf"))),
        "masked_l1_share": Float(0.2, 0.8, start=0.4, limits=(0.0, 1.0)),
    },
    penalty=penalty,
    differentiable=True,
    note="on the gains of norm layers; in a model without any, on the lengths of rows and filters",
)
