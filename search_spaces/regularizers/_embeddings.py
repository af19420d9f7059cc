"""What terms on embeddings share: views, moments and distances of the rows of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.regularizer import Strength, normal_like, pooled
from search_spaces.regularizers._matrices import precise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

OWN_NOISE = 0.1
LEAST_VARIANCE = 1e-5  # a unit that never fires has no spread to divide by


def second_view(p: Pass, rng: torch.Generator) -> Tensor:
    """Inputs of the same examples that differ from those the model saw by what is drawn.

    Where nothing in a study changes inputs, two views would be the same: then, if they are real
    numbers, this one has Gaussian noise of a tenth of their standard deviation.
    """
    inputs = p.view().inputs
    if inputs is not p.raw.inputs or not inputs.is_floating_point():
        return inputs
    size = inputs.var(correction=0).sqrt()
    return inputs + OWN_NOISE * size * normal_like(inputs, rng)


def two_views(p: Pass, user: str, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The embeddings (B, D) of the batch as the model saw it, and of a second view of it."""
    return embedded(p, user), precise(p.embed(second_view(p, rng)))


def embedded(p: Pass, user: str) -> Tensor:
    """The embedding (B, D) in single precision at least, which moments and factors need."""
    return precise(p.embedding(user))


def one(strength: Strength, like: Tensor) -> Tensor:
    """The one strength of the whole batch, 0-d, in the type of `like` and where that lives."""
    import torch

    return torch.as_tensor(pooled(strength)).to(like)


def covariance(rows: Tensor) -> Tensor:
    """The covariance matrix (D, D) of the rows (B, D), divided by B - 1."""
    centred = rows - rows.mean(0)
    return centred.T @ centred / max(len(rows) - 1, 1)


def standardised(rows: Tensor) -> Tensor:
    """The rows with mean 0 and variance 1 in each dimension; one that is constant becomes 0."""
    centred = rows - rows.mean(0)
    variance = centred.square().mean(0)
    return centred / (variance + LEAST_VARIANCE).sqrt()


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """The mean product (D, E) over the rows of two matrices (B, D) and (B, E)."""
    return first.T @ second / len(first)


def off_diagonal(matrix: Tensor) -> Tensor:
    """The matrix with zeros on its diagonal."""
    import torch

    return matrix * (1 - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))


def squared_distances(rows: Tensor) -> Tensor:
    """|x_i - x_j|^2 of all pairs of rows, (B, B), with exact zeros on the diagonal."""
    centred = rows - rows.mean(0)  # else rounding grows with the distance from the origin
    lengths = centred.square().sum(1)
    squares = lengths[:, None] + lengths[None, :] - 2 * centred @ centred.T
    return off_diagonal(squares.clamp(min=0))


def doubly_centred(matrix: Tensor) -> Tensor:
    """A symmetric matrix (B, B) with the means of its rows and of its columns taken out."""
    means = matrix.mean(0)
    return matrix - means[:, None] - means[None, :] + matrix.mean()
