"""A low-rank sketch of H: as a preconditioner of conjugate gradients, and as a solver.

Frangella, Tropp and Udell, Randomized Nystrom preconditioning (SIMAX 2023), Algorithms 2.1 and 5.3;
as a solver: Hataya and Yamada (AISTATS 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse._solved import Operator, Solved


class Sketch:
    """U (n, r) and values (r,), with H about U diag(values) U' and, beside it, `shift` times I."""

    def __init__(self, vectors: Tensor, values: Tensor, shift: float) -> None:
        self.vectors, self.values, self.shift = vectors, values, shift

    def precondition(self, v: Tensor) -> Tensor:
        """P^-1 v: directions of the sketch are scaled as if their eigenvalue were the least."""
        least = float(self.values[-1]) + self.shift
        inside = self.vectors.t() @ v
        scaled = least / (self.values + self.shift) - 1
        return v + self.vectors @ (scaled * inside)

    def solve(self, b: Tensor) -> Tensor:
        """(U diag(values) U' + shift I)^-1 b, by Woodbury."""
        inside = self.vectors.t() @ b
        return (b - self.vectors @ (self.values / (self.values + self.shift) * inside)) / self.shift


def sketch(matrix: Operator, like: Tensor, rank: int, shift: float, seed: int = 0) -> Sketch:
    """The sketch of H from `rank` products, made in one walk of the graph.

    shift: the strength that is known to be in H beside what is of low rank, 0 < shift.
    """
    rank = min(rank, len(like))
    rng = torch.Generator(like.device).manual_seed(seed)
    draws = torch.randn(len(like), rank, generator=rng, dtype=like.dtype, device=like.device)
    basis, _ = torch.linalg.qr(draws)
    image = matrix.products(basis.t()).t() - shift * basis
    # A small shift keeps the Cholesky factor real; it is taken off again (Algorithm 2.1).
    nudge = torch.finfo(like.dtype).eps * float(image.norm())
    image = image + nudge * basis
    core = basis.t() @ image
    if not bool(torch.isfinite(core).all()):  # the factorizations below would raise
        return Sketch(basis[:, :1], core.new_full((1,), torch.nan), shift)
    values, vectors = torch.linalg.eigh((core + core.t()) / 2)
    keep = values > 10 * nudge
    if not bool(keep.any()):
        return Sketch(basis[:, :1] * 0, values.new_zeros(1), shift)
    root = image @ (vectors[:, keep] / values[keep].sqrt())
    left, singular, _ = torch.linalg.svd(root, full_matrices=False)
    return Sketch(left, (singular**2 - nudge).clamp(min=0), shift)


def solve(
    matrix: Operator,
    b: Tensor,
    tolerance: float,
    *,
    start: Tensor | None = None,
    rank: int = 10,
    shift: float = 0.01,
) -> Solved:
    """q from a sketch alone; right where H is of low rank plus `shift` times the identity."""
    found = sketch(matrix, b, rank, shift).solve(b)
    return Solved(found, b - matrix.product(found), rank + 1)
