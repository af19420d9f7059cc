"""Chains of MAID, judged at each of their points."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hpo.bilevel.implicit import maid
from hpo.bilevel.implicit.lower import lbfgs
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.space import SearchSpace

Judge = Callable[[Any, Any, Tensor, Tensor], dict[str, float]]


def descend(
    problem: Any, units: int, judge: Judge | None = None, **given: Any
) -> list[dict[str, float]]:
    """A chain until it has spent so many units: at each accepted point the units and CPU seconds
    so far, what was reported, and what `judge` says of (problem, point, t, x), or the true value.
    """
    descent = maid.Descent(iterations=10_000, gain=0.0, **given)
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    judged = judge or (lambda *at: {"true": true_value(*at)})
    begun, away = time.process_time(), 0.0
    rows = []

    def see(state: maid.Chain) -> None:
        nonlocal away
        left = time.process_time()
        here = state.here
        row = {"units": flat.work.units, "cpu": left - begun - away}
        row |= {"reported": here.value, "error": here.error}
        rows.append(row | judged(problem, point, here.t, here.x))
        away += time.process_time() - left

    begin = maid.begin(flat, flat.coordinates.of(point), descent)
    see(begin)
    for state in maid.chain(flat, begin, descent):
        see(state)
        if flat.work.units >= units:
            break
    return rows


def true_value(problem: Any, point: Any, t: Tensor, x: Tensor) -> float:
    """The outer loss where the inner problem is solved as far as rounding lets it."""
    flat = Bilevel(problem, point)
    floor = 1e-11 * float(flat.gradient(flat.start, t)[1].norm())
    return flat.outer_value(lbfgs.minimize(flat, t, x, floor, limit=50_000).x, t)
