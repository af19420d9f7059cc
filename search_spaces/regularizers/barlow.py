"""Barlow Twins: the cross-correlation of two views' embeddings comes close to the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._embeddings import (
    cross_correlation,
    off_diagonal,
    one,
    standardised,
    two_views,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def barlow(first: Tensor, second: Tensor, redundancy: Tensor | float) -> Tensor:
    """1/D * (sum of (1 - C_ii)^2 + redundancy * sum of C_ij^2 for i != j).

    C is the cross-correlation over the batch of two embeddings (B, D), equations 1 and 2 of Zbontar
    et al. (2021); divided by D so that a weight means the same for every width.
    """
    correlation = cross_correlation(standardised(first), standardised(second))
    agreement = (1 - correlation.diagonal()).square().sum()
    repetition = off_diagonal(correlation).square().sum()
    return (agreement + redundancy * repetition) / first.shape[1]


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * the loss of the embeddings of two views."""
    first, second = two_views(p, "barlow", rng)
    redundancy = one(h["barlow_redundancy"], first)
    return one(h["barlow"], first) * barlow(first, second, redundancy)


REGULARIZER = Regularizer(
    knobs={
        "barlow": Float(1e-3, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        "barlow_redundancy": Float(1e-4, 1e-1, scale="log", start=5e-3, limits=(0.0, float("inf"))),
    },
    loss_batch=term,
    differentiable=True,
    whole=True,
    note="on the input of the last linear layer; the views differ by what is drawn, or by noise",
)
