"""Limited-memory BFGS with a weak Wolfe line search, for smooth problems of any size.

Nocedal and Wright, Numerical Optimization, Algorithms 7.4 and 7.5; the bisection of the line search
as in Lewis and Overton (2013).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse.precondition import Apply, Pairs, pairs
from hpo.bilevel.implicit.lower._minimum import Minimum, norm
from hpo.bilevel.implicit.problem import Bilevel

LIMIT = 2000
MEMORY = 20
_ENOUGH, _FLATTER = 1e-4, 0.9  # of the line search: decrease of the value, change of the slope
_TRIES = 30

Both = Callable[[Tensor], tuple[float, Tensor]]


def minimize(
    problem: Bilevel,
    t: Tensor,
    x: Tensor,
    tolerance: float,
    *,
    limit: int = LIMIT,
    base: Apply | None = None,
    known: Pairs = (),
    measure: Callable[[Tensor], float] | None = None,
) -> Minimum:
    """x with |gradient| <= tolerance, or where no step leads further down.

    base: a stand-in for the inverse Hessian to begin with; known: pairs of an earlier solve at
    knobs nearby. `limit`: gradients at most.
    """

    def both(at: Tensor) -> tuple[float, Tensor]:
        each, slope = problem.gradient(at, t)
        return float(each.sum()), slope

    x = x.detach()
    value, slope = both(x)
    kept, spent = list(known)[-MEMORY:], 1
    size = measure or norm
    while size(slope) > tolerance and spent < limit and math.isfinite(value):
        apply = pairs(kept, base)
        length = 1.0
        if apply is None:
            direction, length = -slope, min(1.0, 1 / float(slope.norm()))
        else:
            direction = -apply(slope)
        if not float(direction @ slope) < 0:
            kept, direction = [], -slope
            length = min(1.0, 1 / float(slope.norm()))
        found = _wolfe(both, x, value, slope, direction, length)
        spent += found.spent
        if found.x is None:
            if not kept:
                break
            kept = []  # an old pair may have led astray; without any, the next direction is -slope
            continue
        step, change = found.x - x, found.slope - slope
        if float(step @ change) > 1e-12 * float(change @ change):
            kept = [*kept, (step, change)][-MEMORY:]
        x, value, slope = found.x, found.value, found.slope
    reached = size(slope) <= tolerance
    return Minimum(x, slope, spent, tuple(kept), reached)


class _Found:
    def __init__(self, spent: int, x: Tensor | None, value: float, slope: Tensor) -> None:
        self.spent, self.x, self.value, self.slope = spent, x, value, slope


def _wolfe(
    both: Both, x: Tensor, value: float, slope: Tensor, direction: Tensor, length: float
) -> _Found:
    """A step that decreases the value enough and flattens the slope along it; x is None if rounding
    leaves none."""
    down = float(direction @ slope)
    low, high = 0.0, math.inf
    noise = 4 * torch.finfo(x.dtype).eps * abs(value)
    best: tuple[Tensor, float, Tensor] | None = None
    for spent in range(1, _TRIES + 1):
        at = x + length * direction
        now, there = both(at)
        if not now <= value + _ENOUGH * length * down + noise:
            high = length
        else:
            best = (at, now, there)
            if float(direction @ there) >= _FLATTER * down:
                return _Found(spent, *best)
            low = length
        length = (low + high) / 2 if math.isfinite(high) else 2 * low
    if best is not None:
        return _Found(_TRIES, *best)
    return _Found(_TRIES, None, value, slope)
