"""MAID: descent along inexact hypergradients, whose accuracy follows from what a step promises.

Salehi, Mukherjee, Roberts and Ehrhardt, An adaptively inexact first-order method for bilevel
optimization (2024): backtracking from inexact values with errors that are known, accuracy loosened
and tightened on the way. Here the accuracy of a point comes from the decrease that is predicted for
it, so that there is none to choose; the direction is quasi-Newton in a box, on coordinates scaled
by the size of their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from hpo.bilevel.implicit.evaluation import Evaluation, Rules, Warm, evaluate, not_finite
from hpo.bilevel.implicit.inverse.precondition import pairs
from hpo.bilevel.implicit.problem import Bilevel
from hpo.bilevel.implicit.way import Way

_ENOUGH = 1e-4  # of the predicted decrease, that must be certain
_SHARE = 0.03  # of the predicted decrease, that a value's error may be
_SIGNIFICANT = 0.25  # of it, from where on an error is to blame before the step is
_SHARPER = 5.0  # by how much a point is solved again whose error was to blame
_REFINEMENTS, _BACKTRACKS = 6, 8
_LIKELY, _POOR = 0.7, 0.1  # ratios of actual and predicted decrease that widen and narrow the trust
_MEMORY, _FADING, _FLOOR = 10, 0.9, 0.03  # pairs kept; of the mean square gradient
_LEAST = 1e-13
_IDLE = 3


@dataclass(frozen=True)
class Descent:
    """How MAID goes down. iterations: accepted steps at most. first: the longest step of a knob at
    the beginning, in units of its coordinate (a factor of e); longest: ever. accuracy: the first
    inner solve leaves at most this share of the first inner gradient; 0.1 at most. gain: the chain
    ends after three steps each of which was less than this share of the whole descent.
    """

    iterations: int = 50
    first: float = 0.5
    longest: float = 3.0
    accuracy: float = 0.1
    gain: float = 1e-4
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class Chain:
    """Where a chain is: all that decides how it goes on.

    begun: the value at the first point. pairs: (step, change of gradient) of the last accepted
    steps. square: the running mean square of
    the gradient (m,). radius: the longest step of a coordinate that is trusted. floor: an inner
    gradient below it is rounding. small: how many steps running have gained too little. ended: why
    it is over, or nothing.
    """

    here: Evaluation
    begun: float
    pairs: tuple[tuple[Tensor, Tensor], ...]
    square: Tensor
    radius: float
    floor: float
    iteration: int = 0
    small: int = 0
    ended: str = ""


def way(descent: Descent) -> Way:
    return Way(begin, advance, certified, Chain, descent)


def begin(problem: Bilevel, t: Tensor, descent: Descent) -> Chain:
    """A chain at its first point. HpoError if the losses there are not finite."""
    slope = float(problem.gradient(problem.start, t)[1].norm())
    here = evaluate(
        problem,
        t,
        Warm(problem.start),
        descent.rules,
        slope=max(min(descent.accuracy, 0.1) * slope, _LEAST * slope),
    )
    if not here.finite:
        raise not_finite()
    square = here.gradient**2
    return Chain(here, here.value, (), square, descent.first, _LEAST * max(slope, 1e-300))


def chain(problem: Bilevel, start: Chain, descent: Descent) -> Iterator[Chain]:
    """The chain after each accepted step, until it ends."""
    state = start
    while not state.ended:
        state = advance(problem, state, descent)
        yield state


def advance(problem: Bilevel, state: Chain, descent: Descent) -> Chain:
    """The chain after one more step: a pure function of where it is."""
    if state.iteration >= descent.iterations:
        return replace(state, ended="iterations")
    here = state.here
    slope = problem.coordinates.projected(here.t, here.gradient)
    if not bool(slope.any()):
        return replace(state, ended="no knob can move downhill")
    square = _FADING * state.square + (1 - _FADING) * slope**2
    direction = _direction(slope, square, state.pairs)
    longest = float(direction.abs().max())
    length = state.radius / longest if not state.pairs else min(1.0, state.radius / longest)
    attempt = _search(problem, state, descent, direction, length)
    if attempt.found is None:
        return _stuck(problem, replace(state, here=attempt.here), descent, attempt)
    return _accepted(state, attempt, square, descent)


# -- one step -------------------------------------------------------------------------------------


@dataclass
class _Attempt:
    """What a line search came to: `here` may have been solved more exactly on the way."""

    here: Evaluation
    found: Evaluation | None = None
    predicted: float = 0.0
    tries: int = 0


def _direction(slope: Tensor, square: Tensor, known: Any) -> Tensor:
    """Quasi-Newton downhill on the coordinates that may move, their scale from their gradients."""
    size = square.sqrt()
    scale = 1 / (size + _FLOOR * float(size.max()))
    free = slope != 0

    def base(v: Tensor) -> Tensor:
        return scale * v

    usable = [(s * free, y * free) for s, y in known]
    usable = [(s, y) for s, y in usable if float(s @ y) > 1e-10 * float(s.norm() * y.norm())]
    apply = pairs(usable, base) or base
    direction = -apply(slope) * free
    return direction if float(direction @ slope) < 0 else -base(slope)


def _search(
    problem: Bilevel, state: Chain, descent: Descent, direction: Tensor, length: float
) -> _Attempt:
    """Ever shorter steps until a decrease is certain; points whose error is to blame are solved
    again, more exactly."""
    attempt = _Attempt(state.here)
    warm = state.here.warm
    for attempt.tries in range(_BACKTRACKS):
        here = attempt.here
        t = problem.coordinates.inside(here.t + length * direction)
        step = t - here.t
        predicted = attempt.predicted = -float(here.gradient @ step)
        if not predicted > 1e-15 * abs(here.value):
            return attempt
        new = _evaluated(problem, t, warm, state, descent, _SHARE * predicted)
        for _ in range(_REFINEMENTS):
            if not new.finite or _certain(attempt.here, new, predicted):
                break
            if new.error + attempt.here.error <= _SIGNIFICANT * predicted:
                break
            if new.error >= attempt.here.error:
                new = _sharper(problem, new, state, descent)
            else:
                attempt.here = _sharper(problem, attempt.here, state, descent)
        if new.finite and _certain(attempt.here, new, predicted):
            attempt.found = new
            return attempt
        shrink = _shrink(attempt.here, new, predicted)
        warm = _between(attempt.here, new, shrink)
        length *= shrink
    return attempt


def _between(here: Evaluation, there: Evaluation, share: float) -> Warm:
    """Where to begin at knobs between two points: x and q lie between as well, nearly."""
    if not there.finite:
        return here.warm
    return Warm(here.x.lerp(there.x, share), here.q.lerp(there.q, share), there.pairs)


def _evaluated(
    problem: Bilevel, t: Tensor, warm: Warm, state: Chain, descent: Descent, error: float
) -> Evaluation:
    return evaluate(problem, t, warm, descent.rules, slope=state.floor, value=max(error, 1e-300))


def _sharper(problem: Bilevel, at: Evaluation, state: Chain, descent: Descent) -> Evaluation:
    rules = replace(descent.rules, relative=descent.rules.relative / _SHARPER)
    slope = max(at.slope / _SHARPER, state.floor)
    return evaluate(problem, at.t, at.warm, rules, slope=slope)


def _certain(old: Evaluation, new: Evaluation, predicted: float) -> bool:
    return (new.value + new.error) - (old.value - old.error) <= -_ENOUGH * predicted


def _shrink(old: Evaluation, new: Evaluation, predicted: float) -> float:
    """Where the parabola through both values and the slope has its minimum, within limits."""
    if not new.finite:
        return 0.25
    bend = new.value - old.value + predicted
    return min(0.5, max(0.1, predicted / (2 * bend))) if bend > 0 else 0.5


def _accepted(state: Chain, attempt: _Attempt, square: Tensor, descent: Descent) -> Chain:
    here, found = attempt.here, attempt.found
    assert found is not None
    step = found.t - here.t
    size = float(step.abs().max())
    ratio = (here.value - found.value) / attempt.predicted
    radius = state.radius
    if attempt.tries == 0 and ratio > _LIKELY and size > 0.9 * radius:
        radius = min(descent.longest, 2 * radius)
    elif attempt.tries > 0 or ratio < _POOR:
        radius = max(1e-3, min(radius, 1.5 * size))
    gained = here.value - found.value >= descent.gain * (state.begun - found.value)
    small = 0 if gained else state.small + 1
    known = (*state.pairs, (step, found.gradient - here.gradient))[-_MEMORY:]
    return replace(
        state,
        here=found,
        pairs=known,
        square=square,
        radius=radius,
        iteration=state.iteration + 1,
        small=small,
        ended="the last steps have gained next to nothing" if small == _IDLE else "",
    )


def _stuck(problem: Bilevel, state: Chain, descent: Descent, attempt: _Attempt) -> Chain:
    """No step was good: without what is remembered, then from a sharper point, then it is over."""
    if state.pairs:
        return advance(problem, replace(state, pairs=()), descent)
    here = state.here
    if here.slope > 10 * state.floor and here.error > 1e-9 * abs(here.value):
        return advance(
            problem, replace(state, here=_sharper(problem, here, state, descent)), descent
        )
    return replace(state, ended="no further decrease can be told from rounding")


def certified(problem: Bilevel, state: Chain, descent: Descent) -> Evaluation:
    """The last point, solved a hundred times more exactly: what is reported of a chain."""
    rules = replace(descent.rules, relative=descent.rules.relative / 100)
    slope = max(state.here.slope / 100, state.floor)
    return evaluate(problem, state.here.t, state.here.warm, rules, slope=slope)
