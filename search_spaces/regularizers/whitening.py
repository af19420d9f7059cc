"""Whitening: after each view's batch is whitened, the two views of an example agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._embeddings import covariance, one, two_views

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

_NEVER_ZERO = 1e-12  # of the mean variance: a batch of equal rows has none


def whitened(rows: Tensor, eps: Tensor | float) -> Tensor:
    """The rows (B, D) with mean 0 and, as eps goes to 0, the identity for covariance.

    L^-1 (z - mean) with L L^T the covariance, of which a share eps is replaced by the identity
    times its mean variance: with fewer rows than dimensions it is singular otherwise (Ermolov et
    al. 2021, equation 5; the scale of the identity is ours, so that eps has no unit).
    """
    import torch

    width = rows.shape[1]
    found = covariance(rows)
    identity = torch.eye(width, dtype=rows.dtype, device=rows.device)
    size = found.diagonal().mean() + _NEVER_ZERO
    # Unlike `cholesky` this raises no error over nan: a run that diverges is to end by its loss.
    factor, _ = torch.linalg.cholesky_ex((1 - eps) * found + eps * size * identity)
    centred = rows - rows.mean(0)
    columns: Tensor = torch.linalg.solve_triangular(factor, centred.T, upper=False)
    return columns.T


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """2 - 2 * cosine of two embeddings (B, D), the mean over the rows: 0 to 4."""
    from torch.nn.functional import normalize

    return (normalize(first, dim=1) - normalize(second, dim=1)).square().sum(1).mean()


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * squared distance of whitened, normalised positives (equation 4)."""
    first, second = two_views(p, "whitening", rng)
    eps = one(h["whitening_eps"], first)
    return one(h["whitening"], first) * agreement(whitened(first, eps), whitened(second, eps))


REGULARIZER = Regularizer(
    knobs={
        "whitening": Float(1e-3, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        "whitening_eps": Float(1e-3, 0.5, scale="log", start=0.05, limits=(1e-6, 1.0)),
    },
    loss_batch=term,
    differentiable=True,
    whole=True,
    note="a Cholesky factor of the last linear layer's inputs; more rows than these are best",
)
