"""VICReg: views of an example agree, dimensions of the embedding vary and do not repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers import _embeddings
from search_spaces.regularizers._embeddings import off_diagonal, one, two_views

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

LEAST_VARIANCE = 1e-4  # epsilon of equation 2


def invariance(first: Tensor, second: Tensor) -> Tensor:
    """The mean square of the difference of two embeddings (B, D).

    Equation 5 of Bardes, Ponce and LeCun (2022), which sums over the dimensions; the mean over
    them lets a weight mean the same for every width.
    """
    return (first - second).square().mean()


def variance(rows: Tensor, target: float = 1.0) -> Tensor:
    """mean over dimensions of max(0, target - std), equations 1 and 2: zero where all vary."""
    centred = rows - rows.mean(0)
    spreads = (centred.square().sum(0) / max(len(rows) - 1, 1) + LEAST_VARIANCE).sqrt()
    return (target - spreads).relu().mean()


def covariance(rows: Tensor) -> Tensor:
    """1/D times the sum of the squared covariances off the diagonal, equations 3 and 4."""
    return off_diagonal(_embeddings.covariance(rows)).square().sum() / rows.shape[1]


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """invariance * s(Z, Z') + variance * (v(Z) + v(Z')) + covariance * (c(Z) + c(Z')), eq. 6."""
    first, second = two_views(p, "vicreg", rng)
    return (
        one(h["vicreg_invariance"], first) * invariance(first, second)
        + one(h["vicreg_variance"], first) * (variance(first) + variance(second))
        + one(h["vicreg_covariance"], first) * (covariance(first) + covariance(second))
    )


# The paper's 25 : 25 : 1, beside a loss of a task.
_WEIGHT = Float(1e-2, 50.0, scale="log", start=1.0, off=0.0, limits=(0.0, float("inf")))
_SMALL = Float(1e-3, 10.0, scale="log", start=0.04, off=0.0, limits=(0.0, float("inf")))

REGULARIZER = Regularizer(
    knobs={
        "vicreg_invariance": _WEIGHT,
        "vicreg_variance": _WEIGHT,
        "vicreg_covariance": _SMALL,
    },
    loss_batch=term,
    differentiable=True,
    whole=True,
    note="on the input of the last linear layer; the views differ by what is drawn, or by noise",
)
