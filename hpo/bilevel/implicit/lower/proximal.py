"""Accelerated proximal gradient steps, for an inner loss plus a part whose prox is known (L1).

Beck and Teboulle, FISTA (2009), with backtracking; restart: O'Donoghue and Candes (2015).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpo.bilevel.implicit.lower._minimum import Minimum, norm
from hpo.bilevel.implicit.problem import Bilevel

LIMIT = 20_000
_LONGER = 1.05  # by how much a step may grow from one iteration to the next


def minimize(
    problem: Bilevel,
    t: Tensor,
    x: Tensor,
    tolerance: float,
    *,
    limit: int = LIMIT,
    measure: Callable[[Tensor], float] | None = None,
) -> Minimum:
    """x whose proximal gradient step, divided by its length, is within the tolerance."""
    size = measure or norm
    x = x.detach()
    y, momentum = x, 1.0
    step = 1.0
    before, spent = problem.work.gradients, 0
    while spent < limit:
        each, slope = problem.gradient(y, t)
        value = float(each.sum())
        while True:
            ahead = problem.proximal(y - step * slope, t, step)
            moved = ahead - y
            with torch.no_grad():
                there = float(problem.inner(ahead, t))
            model = value + float(slope @ moved) + float(moved @ moved) / (2 * step)
            if there <= model + 4 * torch.finfo(x.dtype).eps * abs(value) or step < 1e-14:
                break
            step /= 2
        spent = problem.work.gradients - before
        mapped = -moved / step
        if size(mapped) <= tolerance:
            return Minimum(ahead, mapped, spent)
        if float((y - ahead) @ (ahead - x)) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        y = ahead + (momentum - 1) / following * (ahead - x)
        x, momentum, step = ahead, following, step * _LONGER
    return Minimum(x, mapped, spent, (), False)
