"""Accelerated gradient steps for many independent smooth problems at once, each with a step length,
a momentum and an end of its own.

Nesterov (1983); restart when the momentum points uphill: O'Donoghue and Candes (2015). The step
length follows the curvature seen between neighbouring gradients, so none needs to be known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.lower._minimum import Minimum
from hpo.bilevel.implicit.problem import Bilevel

LIMIT = 5000
_CAUTION = 1.05  # by how much the curvature that was seen is exceeded


def minimize(
    problem: Bilevel,
    t: Tensor,
    x: Tensor,
    tolerance: float,
    *,
    limit: int = LIMIT,
    curvature: Tensor | None = None,
    measure: Callable[[Tensor], float] | None = None,
) -> Minimum:
    """x with |gradient| <= tolerance over all problems, each of which is solved to its share.

    A problem that is solved stays where it is. curvature (problems,): a first guess of the largest
    eigenvalues of the Hessians.
    """
    rows = problem.problems
    share = tolerance / rows**0.5
    x = x.detach().view(rows, -1).clone()
    y, momentum = x.clone(), torch.ones(rows, dtype=x.dtype, device=x.device)
    slope = problem.gradient(y.flatten(), t)[1].view(rows, -1)
    spent = 1
    steep = curvature.clone() if curvature is not None else _first(problem, t, y, slope)
    spent += 0 if curvature is not None else 1
    best, flattest = y.clone(), slope.clone()
    while spent < limit:
        going = slope.norm(dim=1) > share
        better = slope.norm(dim=1) < flattest.norm(dim=1)
        best = torch.where(better[:, None], y, best)
        flattest = torch.where(better[:, None], slope, flattest)
        if measure is not None:
            going = torch.full_like(going, measure(slope.flatten()) > tolerance)
        if not bool(going.any()) or not bool(torch.isfinite(slope).all()):
            break
        ahead = y - slope / (_CAUTION * steep)[:, None]
        uphill = (slope * (ahead - x)).sum(1) > 0
        momentum = torch.where(uphill, torch.ones_like(momentum), momentum)
        following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        push = torch.where(uphill, torch.zeros_like(momentum), (momentum - 1) / following)
        moved = torch.where(going[:, None], ahead + push[:, None] * (ahead - x), y)
        x, momentum = torch.where(going[:, None], ahead, x), following
        there = problem.gradient(moved.flatten(), t)[1].view(rows, -1)
        spent += 1
        step = (moved - y).norm(dim=1)
        seen = (there - slope).norm(dim=1) / step.clamp(min=1e-300)
        steep = torch.where(going & (step > 0), torch.maximum(seen, 0.98 * steep), steep)
        y, slope = moved, there
    reached = not bool(going.any())
    if not reached:
        y, slope = best, flattest
    return Minimum(y.flatten(), slope.flatten(), spent, (), reached)


def _first(problem: Bilevel, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """The curvature along the gradient, from a step that is short against y."""
    size = slope.norm(dim=1).clamp(min=1e-300)
    reach = 1e-3 * (1 + y.norm(dim=1)) / size
    ahead = y - reach[:, None] * slope
    there = problem.gradient(ahead.flatten(), t)[1].view(len(y), -1)
    seen = (there - slope).norm(dim=1) / (reach * size)
    return torch.clamp(seen, min=1e-12)
