"""The greatest eigenvalue of a symmetric matrix in size, by power iteration.

Golub and Van Loan, Matrix Computations, section 8.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse._solved import Operator

PRODUCTS = 10  # that find the eigenvalue well enough for the length of a step
_CAUTION = 1.1  # the iteration comes from below


def drawn(like: Tensor) -> Tensor:
    """A vector to begin with, the same each time."""
    rng = torch.Generator(like.device).manual_seed(0)
    return torch.randn(like.shape, generator=rng, dtype=like.dtype, device=like.device)


def iterated(product: Callable[[Tensor], Tensor], u: Tensor, times: int) -> tuple[float, Tensor]:
    """The size of what the matrix makes of a unit vector after so many products from u, and that
    vector, where a further iteration begins."""
    size = 0.0
    for _ in range(times):
        u = product(u / u.norm().clamp(min=1e-30))
        size = float(u.norm())
    return size, u


def largest(matrix: Operator, like: Tensor) -> float:
    """The eigenvalue after `PRODUCTS` products, with a tenth added; 1 for a matrix of zeros."""
    size, _ = iterated(matrix.product, drawn(like), PRODUCTS)
    return _CAUTION * size if size > 0 else 1.0
