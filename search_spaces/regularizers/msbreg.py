"""MSBReg: embeddings as particles, drawn to the centroid of their views, spread evenly, shaken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, normal_like
from search_spaces.regularizers._embeddings import one, two_views

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def centroid(first: Tensor, second: Tensor) -> Tensor:
    """The mean squared distance of unit embeddings (B, D) from the centroid of their two views.

    The centroid is a constant, so that each view is drawn to where they all are.
    """
    middle = ((first + second) / 2).detach()
    away = (first - middle).square().sum(1) + (second - middle).square().sum(1)
    return away.mean() / 2


def singular_values(rows: Tensor) -> Tensor:
    """How unevenly unit embeddings (B, D) fill space: 0 if alike in all directions, 1 if in one.

    (r * sum of p_k^2 - 1) / (r - 1) with p_k = s_k^2 / B the share of the k-th singular value s_k
    and r the smaller of B and D. The sum is the squared length of Z^T Z / B, smooth also where
    singular values coincide.
    """
    count, width = rows.shape
    # The smaller of the two Gram matrices: their squared lengths are the same.
    gram = rows.T @ rows if width <= count else rows @ rows.T
    rank = min(count, width)
    return (rank * (gram / count).square().sum() - 1) / max(rank - 1, 1)


def brownian(rows: Tensor, step: Tensor | float, rng: torch.Generator) -> Tensor:
    """Half the mean squared distance of unit embeddings (B, D) from where a random step takes them.

    The places (z + step * e / sqrt(D)) / |...|, e standard normal, are constants in z: the gradient
    is a push in a random direction, which needs to know of no other particle.
    """
    from torch.nn.functional import normalize

    moved = rows.detach() + step * normal_like(rows, rng) / rows.shape[1] ** 0.5
    return (rows - normalize(moved, dim=1)).square().sum(1).mean() / 2


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """The three terms, each with its weight, of embeddings scaled to length 1.

    Moon et al. (2021, An Embedding-Dynamic Approach to Self-supervised Learning) describe a
    multiview centroid loss, a singular value loss towards a homogeneous density, and a Brownian
    diffusive loss. The formulas here are reconstructed from that description and tested for these
    properties; they may differ from the paper's in detail.
    """
    from torch.nn.functional import normalize

    first, second = (normalize(view, dim=1) for view in two_views(p, "msbreg", rng))
    step = one(h["msbreg_step"], first)
    return (
        one(h["msbreg_centroid"], first) * centroid(first, second)
        + one(h["msbreg_singular"], first) * (singular_values(first) + singular_values(second)) / 2
        + one(h["msbreg_brownian"], first) * brownian(first, step, rng)
    )


_WEIGHT = Float(1e-3, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf")))

REGULARIZER = Regularizer(
    knobs={
        "msbreg_centroid": _WEIGHT,
        "msbreg_singular": _WEIGHT,
        "msbreg_brownian": _WEIGHT,
        "msbreg_step": Float(0.01, 1.0, scale="log", start=0.1, limits=(0.0, float("inf"))),
    },
    loss_batch=term,
    differentiable=True,
    whole=True,
    note="formulas reconstructed from the paper's description",
)
