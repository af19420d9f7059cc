"""Conjugate gradients, preconditioned, from a warm start, which notice negative curvature.

Hestenes and Stiefel (1952); the extreme Ritz values come from the coefficients (Lanczos).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse._solved import Operator, Solved
from hpo.bilevel.implicit.inverse.precondition import Apply

LIMIT = 2000


def solve(
    matrix: Operator,
    b: Tensor,
    tolerance: float,
    *,
    start: Tensor | None = None,
    precondition: Apply | None = None,
    enough: Callable[[Tensor, Tensor], bool] | None = None,
    limit: int = LIMIT,
    truncated: bool = False,
) -> Solved:
    """q with |b - H q| <= tolerance, or the best within `limit` products.

    enough: asked about q and its residual when that is within the tolerance, and again each time
    when it has become a third, until it says yes.

    Where a direction d has d'Hd <= 0 the matrix is no Hessian at a minimum. If `truncated`, q is
    then given back as it is, or b if it is zero (Steihaug, 1983); else the matrix is shifted by
    twice the negative curvature seen, and the iteration begins again. A shift that just makes up
    for the least eigenvalue would leave a system that is nearly singular, with a q of any size.
    """
    apply = precondition or _itself
    q = torch.zeros_like(b) if start is None else start.clone()
    damping, spent = 0.0, 0
    residual = b.clone()
    if start is not None and bool(q.any()):
        residual -= matrix.product(q)
        spent += 1
        if not float(residual.norm()) <= float(b.norm()):  # worse than none
            q, residual = torch.zeros_like(b), b.clone()
    least, most = 0.0, 0.0
    while True:
        run = _run(matrix, q, residual, tolerance, apply, enough or _always, limit - spent, damping)
        q, residual, spent = run.q, run.residual, spent + run.steps
        if run.steps:
            least, most = _ritz(run.alphas, run.betas)
        if truncated and run.negative is not None:
            return Solved(q if bool(q.any()) else b.clone(), residual, spent, least, most, damping)
        if run.negative is None or spent >= limit:
            return Solved(q, residual, spent, least, most, damping)
        damping = 2 * (damping + max(run.negative, 1e-8 * max(most, 1.0)))
        q, residual = torch.zeros_like(b), b.clone()


class _Run:
    """One stretch of iterations with one damping."""

    def __init__(self, q: Tensor, residual: Tensor) -> None:
        self.q, self.residual = q, residual
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.steps = 0
        self.negative: float | None = None


def _run(
    matrix: Operator,
    q: Tensor,
    residual: Tensor,
    tolerance: float,
    apply: Apply,
    enough: Callable[[Tensor, Tensor], bool],
    limit: int,
    damping: float,
) -> _Run:
    run = _Run(q, residual)
    if float(residual.norm()) <= tolerance:
        if enough(q, residual):
            return run
        tolerance = float(residual.norm()) / 3
    z = apply(residual)
    direction, rz = z.clone(), float(residual @ z)
    while run.steps < limit:
        product = matrix.product(direction)
        run.steps += 1
        if damping:
            product = product + damping * direction
        bend, length = float(direction @ product), float(direction @ direction)
        if not bend > 1e-14 * length * max(1.0, damping):
            run.negative = max(-bend / length, 0.0) if length > 0 else 0.0
            return run
        alpha = rz / bend
        run.q = torch.add(run.q, direction, alpha=alpha)
        run.residual = torch.sub(run.residual, product, alpha=alpha)
        run.alphas.append(alpha)
        if float(run.residual.norm()) <= tolerance:
            if enough(run.q, run.residual):
                return run
            tolerance = float(run.residual.norm()) / 3
        z = apply(run.residual)
        rz, before = float(run.residual @ z), rz
        if not rz > 0:  # rounding has the last word: nothing more to be had
            return run
        beta = rz / before
        run.betas.append(beta)
        direction = torch.add(z, direction, alpha=beta)
    return run


def _ritz(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    """Least and greatest eigenvalue of the tridiagonal matrix of the iteration."""
    k = len(alphas)
    if k == 0:
        return 0.0, 0.0
    a = torch.tensor(alphas, dtype=torch.float64)
    b = torch.tensor(betas[: k - 1], dtype=torch.float64)
    diagonal = 1 / a
    diagonal[1:] += b / a[: k - 1]
    matrix = torch.diag(diagonal)
    if k > 1:
        beside = b.sqrt() / a[: k - 1]
        matrix += torch.diag(beside, 1) + torch.diag(beside, -1)
    values = torch.linalg.eigvalsh(matrix)
    return float(values[0]), float(values[-1])


def _always(q: Tensor, residual: Tensor) -> bool:
    return True


def _itself(v: Tensor) -> Tensor:
    return v
