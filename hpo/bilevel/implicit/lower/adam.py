"""Adam on a few rows of data a step, then L-BFGS on all of them.

Kingma and Ba (ICLR 2015); the step decays along half a cosine (Loshchilov and Hutter, ICLR 2017).
The mini-batches find where to go in networks and in large data; the polish makes it an optimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse.precondition import Pairs
from hpo.bilevel.implicit.lower import lbfgs
from hpo.bilevel.implicit.lower._minimum import Minimum
from hpo.bilevel.implicit.problem import Bilevel

BATCH = 64
PASSES = 10  # over the rows, where the problem has some
STEPS = 200  # on everything, where it has none
STEP = 0.01
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # decay of both moments, and what keeps a root from zero


def minimize(
    problem: Bilevel,
    t: Tensor,
    x: Tensor,
    tolerance: float,
    *,
    known: Pairs = (),
    measure: Callable[[Tensor], float] | None = None,
    seed: int = 0,
) -> Minimum:
    """x with |gradient| <= tolerance, or where no step leads further down.

    Adam runs where the problem's training starts; from parameters that were trained before only
    the polish does, for steps of a fixed length would lead away from them. Work counts in gradients
    on all rows.
    """
    begun = problem.work.gradients
    if torch.equal(x, problem.start):
        trained = _descended(problem, t, x, seed)
        with torch.no_grad():
            if float(problem.inner(trained, t)) < float(problem.inner(x, t)):
                x = trained
    polished = lbfgs.minimize(problem, t, x, tolerance, known=known, measure=measure)
    return replace(polished, iterations=problem.work.gradients - begun)


def _descended(problem: Bilevel, t: Tensor, x: Tensor, seed: int) -> Tensor:
    """Where Adam ends (n,)."""
    count = (problem.row_counts or {}).get("inner")
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    batches = [*_batches(count, seed)] if count else [None] * STEPS
    for k, rows in enumerate(batches, 1):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(problem.inner(x, t, rows), x)
        first = _FIRST * first + (1 - _FIRST) * slope
        second = _SECOND * second + (1 - _SECOND) * slope**2
        step = STEP * (1 + math.cos(math.pi * (k - 1) / len(batches))) / 2
        unit = (first / (1 - _FIRST**k)) / ((second / (1 - _SECOND**k)).sqrt() + _TINY)
        x = x.detach() - step * unit
    problem.work.gradients += PASSES if count else STEPS
    return x


def _batches(count: int, seed: int) -> Iterator[Tensor]:
    """The numbers of the rows of each step; each pass sees each row once, in another order."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(PASSES):
        yield from torch.split(torch.randperm(count, generator=rng), BATCH)
