"""The Neumann series: q = a sum over k of (I - a H)^k b, which is also the fixed point of
q = q + a (b - H q).

Lorraine, Vicol and Duvenaud (AISTATS 2020); Grazzi, Franceschi, Pontil and Salzo (ICML 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse._solved import Operator, Solved
from hpo.bilevel.implicit.inverse.power import PRODUCTS, largest


def solve(
    matrix: Operator,
    b: Tensor,
    tolerance: float,
    *,
    start: Tensor | None = None,
    step: float | None = None,
    limit: int = 1000,
) -> Solved:
    """q with |b - H q| <= tolerance, or after `limit` products.

    step: a, below 2 / the largest eigenvalue of H; without it 1 over an estimate by power
    iteration. Cut short, the series acts as if 1 / (a k) were added to H, so few terms are usable
    where H is not positive definite.
    """
    spent = 0
    if step is None:
        spent, step = PRODUCTS, 1 / largest(matrix, b)
    q = torch.zeros_like(b) if start is None else start.clone()
    residual = b.clone()
    if start is not None and bool(q.any()):
        residual = b - matrix.product(q)
        spent += 1
        if not float(residual.norm()) <= float(b.norm()):  # worse than none
            q, residual = torch.zeros_like(b), b.clone()
    while float(residual.norm()) > tolerance and spent < limit:
        q = q + step * residual
        residual = b - matrix.product(q)
        spent += 1
        if not bool(torch.isfinite(residual).all()):
            break
    return Solved(q, residual, spent, most=1 / step)
