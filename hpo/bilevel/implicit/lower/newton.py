"""Newton's method with conjugate gradients and a backtracking line search, for problems of up to a
few thousand parameters.

Nocedal and Wright, Numerical Optimization, Algorithm 7.1; forcing terms of Eisenstat and Walker.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.inverse import cg
from hpo.bilevel.implicit.lower._minimum import Minimum
from hpo.bilevel.implicit.problem import Bilevel

LIMIT = 2000
_ENOUGH = 1e-4
_TRIES = 30


def minimize(
    problem: Bilevel,
    t: Tensor,
    x: Tensor,
    tolerance: float,
    *,
    limit: int = LIMIT,
    measure: Callable[[Tensor], float] | None = None,
) -> Minimum:
    """x with |gradient| <= tolerance, or where no step leads further down.

    `limit`: gradients and Hessian products at most.
    """
    begun = problem.work.copy()
    x = x.detach()
    curvature = Curvature(problem, x, t)
    first = float(curvature.slope.norm())
    with torch.no_grad():
        value = float(problem.inner(x, t))
    while True:
        size = float(curvature.slope.norm())
        spent = problem.work.since(begun).units
        enough = size <= tolerance if measure is None else measure(curvature.slope) <= tolerance
        if enough or spent >= limit or not math.isfinite(size):
            return Minimum(x, curvature.slope, spent, (), enough)
        forcing = min(0.5, math.sqrt(size / first)) * size
        solved = cg.solve(curvature, -curvature.slope, forcing, limit=limit - spent, truncated=True)
        down = float(solved.q @ curvature.slope)
        direction = solved.q if down < 0 else -curvature.slope
        down = min(down, float(direction @ curvature.slope))
        moved = _backtracked(problem, t, x, value, direction, down)
        if moved is None:
            return Minimum(x, curvature.slope, problem.work.since(begun).units, (), False)
        x, value = moved
        curvature = Curvature(problem, x, t)


def _backtracked(
    problem: Bilevel, t: Tensor, x: Tensor, value: float, direction: Tensor, down: float
) -> tuple[Tensor, float] | None:
    """The first of ever shorter steps that decreases the value enough; a value counts nothing, for
    the gradient at the point is computed, and counted, next."""
    noise = 4 * torch.finfo(x.dtype).eps * abs(value)
    length = 1.0
    for _ in range(_TRIES):
        at = x + length * direction
        with torch.no_grad():
            now = float(problem.inner(at, t))
        if now <= value + _ENOUGH * length * down + noise:
            return at, now
        length /= 2
    return None
