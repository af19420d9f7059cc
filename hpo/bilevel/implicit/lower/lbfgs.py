"""Limited-memory BFGS with a weak Wolfe line search, for smooth problems of any size.

Nocedal and Wright, Numerical Optimization, Algorithm 7.5; the inverse in its compact form, Byrd,
Nocedal and Schnabel (1994), Theorem 2.2; the bisection of the line search as in Lewis and Overton
(2013).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse.precondition import Pairs
from hpo.bilevel.implicit.lower._minimum import Minimum, norm
from hpo.bilevel.implicit.problem import Bilevel

LIMIT = 2000
_NUMBERS = 2**19  # in the steps that are kept, and in the changes of the gradient
_FEWEST, _MOST = 5, 200
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
    known: Pairs = (),
    measure: Callable[[Tensor], float] | None = None,
) -> Minimum:
    """x with |gradient| <= tolerance, or where no step leads further down.

    known: pairs of an earlier solve at knobs nearby. `limit`: gradients at most.
    """

    def both(at: Tensor) -> tuple[float, Tensor]:
        each, slope = problem.gradient(at, t)
        return float(each.sum()), slope

    x = x.detach()
    value, slope = both(x)
    kept, spent = _Kept(known, x), 1
    size = measure or norm
    while size(slope) > tolerance and spent < limit and math.isfinite(value):
        direction, length = kept.downhill(slope), 1.0
        if not float(direction @ slope) < 0:
            kept = _Kept((), x)
            direction = -slope
        if not len(kept):
            length = min(1.0, 1 / float(slope.norm()))
        found = _wolfe(both, x, value, slope, direction, length)
        spent += found.spent
        if found.x is None:
            if not len(kept):
                break
            kept = _Kept((), x)  # an old pair may have led astray; without any, straight down
            continue
        kept.append(found.x - x, found.slope - slope)
        x, value, slope = found.x, found.value, found.slope
    reached = size(slope) <= tolerance
    return Minimum(x, slope, spent, kept.pairs(), reached)


class _Kept:
    """The newest pairs (step, change of the gradient) as rows of two matrices, each divided by the
    root of their product, and what these make with each other."""

    def __init__(self, known: Pairs, like: Tensor) -> None:
        self._most = max(_FEWEST, min(_MOST, _NUMBERS // len(like)))
        self._s, self._y = (like.new_empty(2 * self._most, len(like)) for _ in range(2))
        self._first, self._count = 0, 0  # of the rows in use
        self._sy, self._yy = (like.new_zeros(0, 0) for _ in range(2))
        for step, change in known[-self._most :]:
            self.append(step, change)

    def __len__(self) -> int:
        return self._count

    def pairs(self) -> tuple[tuple[Tensor, Tensor], ...]:
        s, y = self._rows()
        return tuple(zip(s.clone(), y.clone(), strict=True))

    def append(self, step: Tensor, change: Tensor) -> None:
        """Keeps a pair that tells of positive curvature, and forgets the oldest beyond memory."""
        product = float(step @ change)
        if not product > 1e-12 * float(change @ change):
            return
        if self._count == self._most:
            self._first, self._count = self._first + 1, self._count - 1
            self._sy, self._yy = self._sy[1:, 1:], self._yy[1:, 1:]
        if self._first + self._count == len(self._s):
            for matrix, rows in zip((self._s, self._y), self._rows(), strict=True):
                matrix[: self._count] = rows.clone()
            self._first = 0
        row, size = self._first + self._count, math.sqrt(product)
        torch.div(step, size, out=self._s[row])
        torch.div(change, size, out=self._y[row])
        self._count += 1
        s, y = self._rows()
        across, along = s @ y[-1], y @ y[-1]
        self._sy = _grown(self._sy, across, torch.zeros_like(across))
        self._yy = _grown(self._yy, along, along)

    def downhill(self, slope: Tensor) -> Tensor:
        """Minus the inverse Hessian, as the pairs tell it, times the slope."""
        if not self._count:
            return -slope
        s, y = self._rows()
        scale = 1 / float(self._yy[-1, -1])
        solve = torch.linalg.solve_triangular
        first = solve(self._sy, (s @ slope)[:, None], upper=True)[:, 0]
        second = first + scale * (self._yy @ first - y @ slope)
        second = solve(self._sy.t(), second[:, None], upper=False)[:, 0]
        direction: Tensor = scale * (y.t() @ first - slope) - s.t() @ second
        return direction

    def _rows(self) -> tuple[Tensor, Tensor]:
        used = slice(self._first, self._first + self._count)
        return self._s[used], self._y[used]


def _grown(matrix: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """A square matrix with one more column and row, which share their last entry, the column's."""
    found = matrix.new_empty(len(column), len(column))
    found[:-1, :-1] = matrix
    found[-1], found[:, -1] = row, column
    return found


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
