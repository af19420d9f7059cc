"""Nuclear norm penalty: the sum of the singular values of every weight matrix, in the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strength, Strengths
from search_spaces.regularizers._matrices import (
    finite,
    matrices,
    rows,
    scaled_sum,
    smallest,
    unknown,
)

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum over layers of |W * M|_*, the sum of singular values.

    M keeps the `nuclear_share` of the entries that are smallest in magnitude: all of them at 1,
    the plain nuclear norm, which lowers ranks as L1 lowers counts. Small shares are those of SaRA
    (Hu et al. 2024), which trains the smallest weights of a trained model again and keeps their
    matrix of low rank; there M is found once, here from the weights of each step. A filter bank
    counts as the matrix (out, in * k * k). The gradient is U V^T: bounded, also at lost ranks.
    """
    import torch

    share = h["nuclear_share"]
    kept = [_kept(rows(weight), share) for weight in matrices(parameters).values()]
    terms = [torch.linalg.svdvals(finite(each)).sum() + unknown(each) for each in kept]
    return scaled_sum(h["nuclear"], terms)


def _kept(matrix: Tensor, share: Strength) -> Tensor:
    if isinstance(share, float) and share == 1:
        return matrix  # saves the sorting
    return matrix * smallest(matrix.abs().flatten(), share).view_as(matrix)


REGULARIZER = Regularizer(
    knobs={
        "nuclear": Float(1e-5, 0.1, scale="log", start=1e-4, off=0.0, limits=(0.0, float("inf"))),
        "nuclear_share": Float(0.05, 1.0, start=1.0, limits=(0.0, 1.0)),
    },
    penalty=penalty,
    differentiable=True,
    note="coupled; lowers ranks; one singular value decomposition a layer and step",
)
