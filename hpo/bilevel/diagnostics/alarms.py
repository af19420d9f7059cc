"""What can go wrong in a self-tuning run, in plain words, and from when on each is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from hpo.bilevel.diagnostics.significance import SURE
from hpo.bilevel.stn.freeknobs import Column
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.wording import knob, number, plural
from search_spaces.domains import Choice, Float

_EDGE = 0.02  # of the range: this near to its end a knob is at it
_WIDE, _NARROW = 1.5, 0.1  # perturbations, in free units
_APART = 0.05  # of a linear range, between a value and its mean under the perturbation
_TIMES = 5.0  # the same for a log range: as a factor
_ROWS = 10  # validation rows for each strength that is tuned
_FEW, _MANY = 3, 10  # checks of the response: for a clear verdict, and for one by its sign alone
_MEASURED = 6  # pairs of validation and hold-out, before a trend is one
_WIDENING = 0.05  # of the validation loss, by which the hold-out falls behind
_SLACK = 1.25  # what has begun to hold holds until it is better by this factor


@dataclass(frozen=True)
class Alarm:
    """`begins`: whether it is so; `lasts`: whether it still counts as so once it has begun, by a
    milder rule, for else a knob that wavers about a threshold would be reported again and again."""

    key: str
    text: str
    begins: bool
    lasts: bool


@dataclass(frozen=True)
class Standing:
    """How one strength of a knob stands: `free` its free number, `start` that at the start, `scale`
    its perturbation, `slope` the mean gradient and `certainty` how sure that is; `value`, and
    `expected`, its mean under the perturbation."""

    column: Column
    free: float
    start: float
    scale: float
    slope: float
    certainty: float
    value: float
    expected: float


def of_knob(at: Standing, least: float, most: float, learned: bool) -> list[Alarm]:
    """The alarms of one strength; `least` and `most` bound its scale if that is learned."""
    alarms = [] if isinstance(at.column.domain, Choice) else [*_ends(at), _apart(at)]
    if learned and at.scale > 0:
        alarms += [_grown(at, most), _shrunk(at, least)]
    return alarms


def of_response(gain: float, t: float, checks: int) -> Alarm:
    """The response does not help where it was trained to; `t` is nan if all checks were equal."""
    sure = f" (t {t:.1f})" if math.isfinite(t) else ""
    text = (
        f"the response is not learning: without it the loss changes by {number(gain)}{sure} and"
        " should rise; raise response_rate or warmup"
    )
    clear = gain <= 0 and not t > -2
    begins = (checks >= _FEW and clear) or (checks >= _MANY and gain <= 0)
    return Alarm("response", text, begins, begins or (checks >= _FEW and not t >= 0.5))


def of_split(validation: Sequence[float], holdout: Sequence[float]) -> Alarm:
    """The knobs fit the rows of the validation split and not what they stand for."""
    gaps = [b - a for a, b in zip(validation, holdout, strict=True)]
    if len(gaps) < _MEASURED:
        return Alarm("split", "", False, False)
    third = len(gaps) // 3
    before, now = fmean(gaps[:third]), fmean(gaps[-third:])
    text = (
        f"the hold-out loss is {number(now)} above the validation loss and was {number(before)}:"
        " the knobs begin to fit the validation rows; keep more of them, or tune fewer knobs"
    )
    limit = _WIDENING * abs(fmean(validation[-third:]))
    # Rows drawn alike differ by a little: only a gap worth speaking of is spoken of.
    wider = now > limit and now - before > limit
    lasts = now > limit / _SLACK and now - before > limit / _SLACK
    return Alarm("split", text, wider and _trend(gaps) > SURE, lasts)


def of_rows(strengths: int, rows: int) -> Alarm:
    """Many knobs for few validation rows."""
    few = 0 < rows < _ROWS * strengths
    text = (
        f"{plural(strengths, 'strength')} tuned on {plural(rows, 'validation row')}: they may fit"
        f" these rows only; {_ROWS * strengths} rows or fewer knobs would be safer"
    )
    return Alarm("rows", text, few, few)


def of_pace(options: SelfTuningOptions, steps: int) -> Alarm:
    """A run of so many training steps that ends before the knobs have moved once."""
    still = not options.moves(steps)
    text = (
        f"the knobs stay at their start: of {plural(steps, 'training step')} none moves them"
        f" (every {options.pace(steps)}, warmup {options.warmup:g}, settle {options.settle:g});"
        " train longer, or lower every"
    )
    return Alarm("pace", text, still, still)


def of_refusals(refused: int, tried: int) -> Alarm:
    """Steps of the knobs that were not taken."""
    text = (
        f"{refused} of {plural(tried, 'step')} of the knobs left out: the validation loss, or its"
        " gradient, was not a finite number; look for such numbers in the validation batches"
    )
    return Alarm("refused", text, refused > 0, refused > 0)


def of_unlearned(refused: int) -> Alarm:
    """Steps of the response that were not taken."""
    text = (
        f"{plural(refused, 'training step')} taught the response nothing: the gradient was not a"
        " finite number; look for such numbers in the training batches, or lower the learning rate"
    )
    return Alarm("unlearned", text, refused > 0, refused > 0)


def _ends(at: Standing) -> list[Alarm]:
    """At an end of the range. A knob that started there is told of only if it is pushed outward."""
    domain, name, found = at.column.domain, at.column.name, []
    assert not isinstance(domain, Choice)
    low, high = getattr(domain, "smallest", domain.low), domain.high
    for end, bound, outward in (("lower", low, -1), ("upper", high, 1)):
        near, began = (_beyond(outward * place) for place in (at.free, at.start))
        pushed = at.certainty > SURE and at.slope * outward < 0
        held = f"{name} has reached its {end} end {knob(domain, bound)}"
        text = f"{held}: {_advice(domain, outward)}"
        begins = near < _EDGE and (began >= _EDGE or pushed)
        found.append(Alarm(f"{end} {name}", text, begins, near < 2 * _EDGE))
    return found


def _beyond(free: float) -> float:
    """The share of the range between a free number and the upper end."""
    return 1 / (1 + math.exp(min(free, 700.0)))


def _advice(domain: object, outward: int) -> str:
    low, high = getattr(domain, "limits", (-math.inf, math.inf))
    if outward > 0:
        at_limit = getattr(domain, "high", -math.inf) >= high
        return "it has none beyond; add another knob" if at_limit else "widen its range"
    off = getattr(domain, "low", math.inf) <= low
    if off:
        return "leave it out, or let it start again (restarts: 1)"
    return "widen its range, or leave it out"


def _grown(at: Standing, most: float) -> Alarm:
    limit = min(_WIDE, 0.99 * most)
    text = (
        f"the perturbation of {at.column.name} has grown to {at.scale:.2f} without a clear gradient"
        f" (signal to noise {at.certainty:.1f}): its entropy drives it, not the loss;"
        " lower entropy or most_scale"
    )
    wide = at.scale > limit and at.certainty < SURE
    return Alarm(f"grown {at.column.name}", text, wide, at.scale > limit / _SLACK)


def _shrunk(at: Standing, least: float) -> Alarm:
    limit = max(_NARROW, 1.01 * least)
    text = (
        f"the perturbation of {at.column.name} has shrunk to {at.scale:.2f}: too little to learn a"
        " response from; raise least_scale or entropy"
    )
    narrow = at.scale < limit
    return Alarm(f"shrunk {at.column.name}", text, narrow, at.scale < limit * _SLACK)


def _apart(at: Standing) -> Alarm:
    domain = at.column.domain
    assert not isinstance(domain, Choice)
    value, mean = at.value, at.expected
    if domain.scale in ("log", "log+0"):
        far = math.log(max(mean, 1e-300) / max(value, 1e-300)) / math.log(_TIMES)
    else:
        far = (mean - value) / ((domain.high - domain.low) or 1.0) / _APART
    shown = [knob(domain if isinstance(domain, Float) else None, v) for v in (value, mean)]
    text = (
        f"{at.column.name} is {shown[0]}, but under its perturbation {shown[1]} on average:"
        " replay the schedule as expected or perturbed, or lower most_scale"
    )
    return Alarm(f"apart {at.column.name}", text, abs(far) > 1, abs(far) > 1 / _SLACK)


def _trend(values: Sequence[float]) -> float:
    """By how many standard deviations the values rise more often than they fall (Mann, 1945)."""
    n = len(values)
    rises = sum((b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :])
    return rises / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
