"""I-STAR: embeddings fill space more evenly, or with a negative strength less so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._embeddings import covariance, embedded, one

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

_NEVER_ZERO = 1e-12


def isoscore(rows: Tensor, shrinkage: Tensor | float) -> Tensor:
    """IsoScore* of the rows (B, D): 1 where all directions vary alike, 0 where only one does.

    Rudman and Eickhoff (2024) scale the eigenvalues of the covariance S to the length sqrt(D), take
    their distance from (1, ..., 1) in units of the largest one possible, and map that to [0, 1].
    Worked out, this is

        ((tr S)^2 / |S|_F^2 - 1) / (D - 1),

    which needs no eigenvalue and is smooth where some coincide. S is the batch's covariance with a
    share `shrinkage` replaced by its mean variance times the identity. The paper shrinks towards
    the covariance of a larger sample instead, which a single batch does not have.
    """
    width = rows.shape[1]
    found = covariance(rows)
    trace, square = found.diagonal().sum(), found.square().sum()
    keep = 1 - shrinkage
    # |keep * S + (1 - keep) * (tr / D) * I|^2; its trace is that of S.
    square = keep**2 * square + (1 - keep**2) * trace.square() / width
    ratio = (trace.square() + _NEVER_ZERO) / (square + _NEVER_ZERO / width)
    return (ratio - 1) / max(width - 1, 1)


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * (1 - IsoScore*), of either sign."""
    rows = embedded(p, "isotropy")
    score = isoscore(rows, one(h["isotropy_shrinkage"], rows))
    return one(h["isotropy"], rows) * (1 - score)


REGULARIZER = Regularizer(
    knobs={
        # Below zero, where the paper found its gains.
        "isotropy": Float(-1.0, 1.0, start=-0.1, off=0.0),
        "isotropy_shrinkage": Float(0.0, 1.0, start=0.2, limits=(0.0, 1.0)),
    },
    loss_batch=term,
    differentiable=True,
    note="a negative strength makes embeddings less isotropic",
)
