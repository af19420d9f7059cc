"""What the penalties on weights share: which tensors count, their rows, and sums of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from search_spaces.regularizer import Strength, pooled

if TYPE_CHECKING:
    from torch import Tensor


def matrices(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of two or more dimensions by name; biases and gains are vectors."""
    return {name: weight for name, weight in parameters.items() if weight.ndim >= 2}


def rows(weight: Tensor) -> Tensor:
    """The weight as a matrix with a row for each place of its first dimension: of a filter bank
    (out, in, k, k) a row is one filter."""
    return precise(weight).flatten(1)


def precise(tensor: Tensor) -> Tensor:
    """The tensor itself, or in single precision where that is more: sums of squares need it."""
    import torch

    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def lengths(vectors: Tensor) -> Tensor:
    """The Euclidean length of each row, (rows,); all derivatives at a row of zeros are zero."""
    import torch

    squares = vectors.square().sum(-1)
    zero = squares == 0
    return torch.where(zero, 1.0, squares).sqrt().masked_fill(zero, 0.0)


def finite(matrix: Tensor) -> Tensor:
    """The matrix itself, or zeros if an entry is not finite: decompositions raise an error then,
    and a run that diverges is to end by its loss. See `unknown`."""
    import torch

    return torch.where(matrix.isfinite().all(), matrix, 0.0)


def unknown(matrix: Tensor) -> Tensor:
    """Zero, or nan if an entry of the matrix is not finite."""
    import torch

    return torch.where(matrix.isfinite().all(), 0.0, torch.nan).to(matrix)


def smallest(sizes: Tensor, share: Strength) -> Tensor:
    """How far each entry belongs to the smallest `share` of a vector: 1, 0, or between for one.

    With the entries in order the one of rank r (from 0) belongs by clamp(share * n - r, 0, 1), so
    that a sum over those that belong changes continuously with the share and with the entries. The
    last one has no upper end, which only gives the share 1 a slope on both sides.
    """
    import torch

    places = torch.arange(len(sizes), device=sizes.device)
    order = sizes.detach().argsort(stable=True)
    rank = torch.empty_like(order).scatter(0, order, places)
    belongs: Tensor = (pooled(share) * len(sizes) - rank.to(sizes.dtype)).clamp(min=0.0)
    return torch.where(rank == len(sizes) - 1, belongs, belongs.clamp(max=1.0))


def scaled_sum(strength: Strength, terms: Sequence[Tensor]) -> Tensor:
    """strength * the sum of the terms; zero of none, as in a layer that has only vectors."""
    import torch

    if not terms:
        return torch.as_tensor(0.0) * pooled(strength)
    return pooled(strength) * torch.stack(list(terms)).sum()
