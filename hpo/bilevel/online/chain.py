"""A bilevel problem trained by stochastic steps, while its knobs go downhill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hpo.bilevel.implicit.evaluation import Evaluation
from hpo.bilevel.implicit.inverse.power import drawn
from hpo.bilevel.implicit.lower import solvers
from hpo.bilevel.implicit.problem import Bilevel
from hpo.bilevel.implicit.way import Way
from hpo.bilevel.online.knobsteps import Knobs, rate_of, stepped
from hpo.bilevel.online.methods._method import Method
from hpo.bilevel.online.rows import MOMENTUM, RowsView, steepness
from search_spaces.errors import HpoError

_FIRST = 12  # iterations of the first estimate of the curvature
_NEAR = 0.05  # units that a knob can move until the curvature is looked at again
_CAUTION = 1.2
_WARMUP = 0.05
_SOLVED = 1e-5  # of the first inner gradient, left where the outer loss is looked at


@dataclass(frozen=True)
class Training:
    """How a problem is trained. method: the way to the hypergradient. iterations: steps of the
    knobs; every: steps of the parameters for each, unless the method's own. batch: rows a step
    looks at. path: how often a knob can travel its range. looks: measurements in
    between.
    """

    method: Method
    iterations: int = 500
    every: int | None = None
    batch: int = 64
    path: float = 2.0
    looks: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Chain:
    """Where such a training is: all that decides how it goes on.

    here: the outer loss at the knobs of the moment, the inner problem solved for the purpose. x,
    velocity: of the parameters in training. state: what the method remembers. sum: of the learning
    rates so far. steep, along: the greatest curvature seen, and its direction, where the knobs were
    at `looked`. first: the size of the first inner gradient. taken: steps of the parameters.
    """

    here: Evaluation
    knobs: Knobs
    x: Tensor
    velocity: Tensor
    state: Mapping[str, Tensor] = field(default_factory=dict)
    sum: float = 0.0
    steep: float = 0.0
    along: Tensor = field(default_factory=lambda: torch.zeros(0))
    looked: Tensor = field(default_factory=lambda: torch.zeros(0))
    first: float = 0.0
    taken: int = 0
    iteration: int = 0
    ended: str = ""


def way(training: Training) -> Way:
    return Way(begin, advance, certified, Chain, training)


def begin(problem: Bilevel, t: Tensor, training: Training) -> Chain:
    """The training before its first step. HpoError if the problem is not fit for it."""
    if not problem.smooth:
        raise HpoError(
            "the inner problem has a prox, which stochastic training does not know",
            hint="use sampler maid or hoag",
            code="refused",
            path=("sampler",),
        )
    x = problem.start
    steep, along = steepness(_view(problem, x, training), t, drawn(x), _FIRST)
    slope = problem.gradient(x, t)[1]
    first = float(slope.norm())
    here = _seen(problem, t, x, _SOLVED * first, torch.zeros_like(t), float("nan"))
    if not (math.isfinite(first) and math.isfinite(here.value) and steep > 0):
        raise HpoError(
            "the inner loss or its gradient is not finite, or flat, at the start",
            hint="start from stronger regularization, or scale the data",
            code="not-finite",
        )
    return Chain(here, Knobs.at(t), x, torch.zeros_like(x), {}, 0.0, steep, along, t, first)


def advance(problem: Bilevel, chain: Chain, training: Training) -> Chain:
    """The training after the stretch to its next measurement."""
    stretch = max(1, training.iterations // training.looks)
    view = _view(problem, chain.x, training)
    view.sum = chain.sum
    gradient, residual = chain.here.gradient, chain.here.linear_residual
    for _ in range(min(stretch, training.iterations - chain.iteration)):
        chain, gradient, residual = _step(view, chain, training)
    here = _seen(problem, chain.knobs.t, view.x, _SOLVED * chain.first, gradient, residual)
    if not (math.isfinite(here.value) and bool(torch.isfinite(view.x).all())):
        raise HpoError(
            "training diverged: parameters or the outer loss are not finite",
            hint="use sampler maid, which solves the inner problem with a line search",
            code="not-finite",
        )
    ended = "iterations" if chain.iteration >= training.iterations else ""
    return replace(chain, here=here, x=view.x, sum=view.sum, ended=ended)


def certified(problem: Bilevel, chain: Chain, training: Training) -> Evaluation:
    """The outer loss at the last knobs, the inner problem solved a hundred times more exactly."""
    here = chain.here
    wanted = _SOLVED / 100 * chain.first
    return _seen(problem, here.t, here.x, wanted, here.gradient, here.linear_residual)


def _step(view: RowsView, chain: Chain, training: Training) -> tuple[Chain, Tensor, float]:
    """One step of the knobs, after some of the parameters."""
    method, knobs, state = training.method, chain.knobs, dict(chain.state)
    progress = chain.iteration / training.iterations
    steep, along, looked = chain.steep, chain.along, chain.looked
    if float((knobs.t - looked).abs().max()) > _NEAR:
        seen, along = steepness(view, knobs.t, along, 2)
        steep, looked = max(seen, 0.9 * steep), knobs.t
    noisy = any(total > training.batch for total in (view.problem.row_counts or {}).values())
    fading = (1 + math.cos(math.pi * progress)) / 2
    view.rate = (fading if noisy else 1.0) / (_CAUTION * steep)
    taken, velocity = chain.taken, chain.velocity
    alone = method.simultaneous
    for _ in range(0 if alone else training.every or method.every):
        view.at(taken)
        slope = view.inner(view.x, knobs.t)[0]
        step, velocity = view.stride(view.x, slope, velocity, knobs.t)
        view.x = view.x + step
        view.sum += view.rate / (1 - MOMENTUM)
        state = dict(method.learn(view, knobs.t, state))
        taken += 1
    view.at(taken)
    found = method.gradient(view, knobs.t, state)
    if alone and found.slope is not None:
        view.x = view.x - view.rate * found.slope
        view.sum += view.rate
        taken += 1
    if progress >= _WARMUP:
        rate = fading * rate_of(training.path, training.iterations)
        knobs = stepped(knobs, found.gradient, rate, view.problem.coordinates.spans)
    chain = replace(
        chain, knobs=knobs, velocity=velocity, state=found.lasting, steep=steep, along=along,
        looked=looked, taken=taken, iteration=chain.iteration + 1,
    )  # fmt: skip
    return chain, found.gradient, found.residual


def _view(problem: Bilevel, x: Tensor, training: Training) -> RowsView:
    return RowsView(problem, x, training.batch, training.seed)


def _seen(
    problem: Bilevel, t: Tensor, x: Tensor, wanted: float, gradient: Tensor, residual: float
) -> Evaluation:
    """The outer loss at t with the inner problem solved from x, which takes no second derivative:
    at the parameters in training it would not be that of the knobs."""
    solved = solvers.minimize(problem, t, x, wanted)
    value = problem.outer_value(solved.x, t)
    return Evaluation(
        t=t.detach(), value=value, error=0.0, raw=value, gradient=gradient, x=solved.x,
        q=torch.zeros_like(x), pairs=(), slope=float(solved.slope.norm()),
        linear_residual=residual, damping=0.0, certified=False,
    )  # fmt: skip
