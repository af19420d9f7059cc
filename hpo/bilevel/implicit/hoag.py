"""HOAG: gradient descent on the outer loss, with accuracies that follow a schedule.

Pedregosa, Hyperparameter optimization with approximate gradient (ICML 2016), Algorithm 1, with the
adaptive step of section 4: the knobs move once an iteration, a step that makes the outer loss much
worse is taken back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from hpo.bilevel.implicit.evaluation import Evaluation, Rules, Warm, evaluate, not_finite
from hpo.bilevel.implicit.problem import Bilevel
from hpo.bilevel.implicit.way import Way

Tolerances = Literal["quadratic", "cubic", "exponential", "exact"]
_FLOOR = 1e-12
_LONGER, _WORSE, _SHARE = 0.95, 0.2, 0.25
_STILL = 1e-6  # units: knobs that move no more


@dataclass(frozen=True)
class Descent:
    """How HOAG goes down. iterations: at most. tolerances: how the accuracy of the inner problem
    and of the linear system falls with the iterations k: first / k^2, first / k^3, first * 0.9^k,
    or 1e-12 throughout. first: of the first iteration, as a share of where both begin.
    """

    iterations: int = 100
    tolerances: Tolerances = "exponential"
    first: float = 0.1
    rules: Rules = field(default_factory=Rules)

    def accuracy(self, k: int) -> float:
        """Of iteration k, from 1."""
        found = {
            "quadratic": self.first / k**2,
            "cubic": self.first / k**3,
            "exponential": self.first * 0.9**k,
            "exact": _FLOOR,
        }[self.tolerances]
        return max(found, _FLOOR)


@dataclass(frozen=True)
class Chain:
    """Where a chain is. curvature: one over the step, in the paper L. sharper: by how much the
    accuracy is above its schedule, because steps were taken back. size: of the first inner
    gradient."""

    here: Evaluation
    curvature: float
    size: float
    sharper: float = 1.0
    iteration: int = 0
    ended: str = ""


def way(descent: Descent) -> Way:
    return Way(begin, advance, certified, Chain, descent)


def begin(problem: Bilevel, t: Tensor, descent: Descent) -> Chain:
    """A chain at its first point. HpoError if the losses there are not finite."""
    size = float(problem.gradient(problem.start, t)[1].norm())
    here = _evaluated(problem, t, Warm(problem.start), size, descent.accuracy(1), descent)
    gradient = here.gradient
    if not here.finite:
        raise not_finite()
    steep = float(gradient.norm())
    return Chain(here, steep / math.sqrt(len(t)) if steep > 0 else 1.0, size)


def advance(problem: Bilevel, state: Chain, descent: Descent) -> Chain:
    """The chain after one more step: a pure function of where it is."""
    if state.iteration >= descent.iterations:
        return replace(state, ended="iterations")
    here, k = state.here, state.iteration + 1
    slope = problem.coordinates.projected(here.t, here.gradient)
    t = problem.coordinates.inside(here.t - slope / state.curvature)
    moved = float((t - here.t).norm())
    if float((t - here.t).abs().max()) < _STILL:
        return replace(state, ended="the knobs move no more")
    before, after = (descent.accuracy(i) / state.sharper for i in (k, k + 1))
    new = _evaluated(problem, t, here.warm, state.size, max(after, _FLOOR), descent)
    if not new.finite or new.raw >= here.raw + _WORSE * abs(here.raw):
        sharper, curvature = 2 * state.sharper, 2 * state.curvature
        finer = max(descent.accuracy(k + 1) / sharper, _FLOOR)
        again = _evaluated(problem, here.t, here.warm, state.size, finer, descent)
        return Chain(again, curvature, state.size, sharper, k)
    promised = _SHARE * after + (_SHARE + 1) * before * moved - state.curvature * moved**2
    curvature = state.curvature * (_LONGER if new.raw <= here.raw + promised else 1.0)
    return replace(state, here=new, curvature=curvature, iteration=k)


def certified(problem: Bilevel, state: Chain, descent: Descent) -> Evaluation:
    """The last point, solved a hundred times more exactly: what is reported of a chain."""
    accuracy = descent.accuracy(max(1, state.iteration)) / 100
    return _evaluated(
        problem, state.here.t, state.here.warm, state.size, max(accuracy, _FLOOR), descent
    )


def _evaluated(
    problem: Bilevel, t: Tensor, warm: Warm, size: float, accuracy: float, descent: Descent
) -> Evaluation:
    rules = replace(descent.rules, relative=accuracy)
    return evaluate(problem, t, warm, rules, slope=accuracy * size)
