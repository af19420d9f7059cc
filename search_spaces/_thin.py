"""A schedule with few knots, and how far it strays from the one it describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces._curve import Curve, Track, places_at, value_at
from search_spaces._form import SWINGING
from search_spaces._scales import ZERO_SHARE
from search_spaces._spread import sigma_at, straight
from search_spaces.domains import Choice, Float, Value, units
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from search_spaces.schedule import Schedule

CURVED = ("exponential", "cosine", "cosine_power", "sine", "cubic")
GRID = 256  # steps in which a curved track is looked at
NOTHING = 1e-12  # a deviation that is only rounding of doubles


@dataclass(frozen=True)
class Sampled:
    """A schedule at candidate places, one column for each strength of each knob.

    `places` are the unit coordinates of the curve, `rounded` those of the values on it, which
    rounding to whole numbers or to zero moves; `steps` marks the columns without slopes.
    """

    progress: NDArray[np.float64]
    places: NDArray[np.float64]
    rounded: NDArray[np.float64]
    steps: NDArray[np.bool_]


def thin(schedule: Schedule, knots: int, tolerance: float) -> tuple[Schedule, float]:
    """The schedule over at most `knots` common knots, and its largest deviation."""
    if knots < 1 or not tolerance >= 0:
        raise HpoError(
            f"a schedule cannot be thinned to {knots} knots within {tolerance:g}",
            hint="at least 1 knot, and a tolerance of 0 or more",
            code="bad-range",
        )
    sampled = _sample(schedule)
    chosen = [0]
    gaps = _gaps(sampled, chosen)
    while len(chosen) < knots:
        open_gaps = gaps.max(axis=1, initial=0.0)
        open_gaps[chosen] = 0.0  # a chosen place stays; only rounding separates it from the curve
        worst = int(open_gaps.argmax())
        if open_gaps[worst] <= max(tolerance, NOTHING):
            break
        # The second knot is the last place: between two ends every later knot can only help.
        chosen = sorted({*chosen, worst if len(chosen) > 1 else len(sampled.progress) - 1})
        gaps = _gaps(sampled, chosen)
    if len(chosen) < min(knots, 2) and any(s.form != "constant" for s in schedule.spreads.values()):
        chosen = [0, len(sampled.progress) - 1]  # the values need one knot, the spreads their ends
    progress = tuple(sampled.progress[chosen].tolist())
    tracks = {name: _thinned(one, progress) for name, one in schedule.curves.items()}
    spreads = {
        name: straight(list(progress), [sigma_at(track, place) for place in progress])
        for name, track in schedule.spreads.items()
    }
    rounding = max((_rounding(one, progress) for one in schedule.curves.values()), default=0.0)
    thinned = replace(schedule, tracks=tracks, spreads=spreads)
    return thinned, float(gaps.max(initial=0.0)) + rounding


def distance(schedule: Schedule, other: Schedule) -> float:
    """The mean absolute difference over progress and knobs, in unit coordinates."""
    if set(schedule.space) != set(other.space):
        apart = sorted(set(schedule.space) ^ set(other.space))
        raise HpoError(
            f"these schedules have different knobs: only one of them has {', '.join(apart)}",
            hint="compare schedules of the same space",
            code="bad-schedule",
        )
    places = sorted({*schedule.knots(), *other.knots(), *np.linspace(0.0, 1.0, GRID + 1).tolist()})
    total = 0.0
    for name, domain in schedule.space.items():
        rows = [
            [units(domain, value_at(each.curves[name], place)) for place in places]
            for each in (schedule, other)
        ]
        gap = np.abs(np.array(rows[0]) - np.array(rows[1])).mean(axis=1)
        total += float(np.trapezoid(gap, places))
    return total / max(len(schedule.space), 1)


def _sample(schedule: Schedule) -> Sampled:
    progress = _candidates(schedule)
    empty = np.zeros((len(progress), 0))
    places, rounded, steps = [empty], [empty], []
    for name, domain in schedule.space.items():
        one = schedule.curves[name]
        places.append(np.array([places_at(one, place) for place in progress]))
        rounded.append(np.array([units(domain, value_at(one, place)) for place in progress]))
        steps += [one.track.form == "steps"] * places[-1].shape[1]
    return Sampled(
        np.array(progress),
        np.concatenate(places, axis=1),
        np.concatenate(rounded, axis=1),
        np.array(steps, dtype=bool),
    )


def _candidates(schedule: Schedule) -> list[float]:
    """Every place where a track bends; a grid as well where one is curved."""
    places = set(schedule.knots()).union(*map(bends, schedule.tracks.values()))
    # Values run straight there, but a thinned spread is to reach from its first to its last knot.
    moving = (track for track in schedule.spreads.values() if track.form != "constant")
    return sorted(places.union(*(track.progress for track in moving)))


def bends(track: Track) -> set[float]:
    """Every place where a track that moves bends; a grid as well where it is curved."""
    if track.form == "constant":
        return set()
    grid = GRID + 1 if track.form in CURVED else 0
    places = {*track.progress, *(index / GRID for index in range(grid))}
    if track.form in SWINGING:
        swings = 2 * int(track.options["cycles"])
        places |= {index / swings for index in range(swings + 1)}
        if track.form == "sine":  # the grid may be too coarse for many swings
            places |= {index / (8 * swings) for index in range(8 * swings + 1)}
    return places


def _gaps(sampled: Sampled, chosen: list[int]) -> NDArray[np.float64]:
    """How far the curve through the chosen places runs from the true one, at every place.

    Both are straight between neighbouring candidates, so the largest gap is at one of them.
    """
    knots, values = sampled.progress[chosen], sampled.rounded[chosen]
    first = np.searchsorted(knots, sampled.progress, side="right") - 1
    last = np.minimum(first + 1, len(chosen) - 1)
    width = np.where(last > first, knots[last] - knots[first], 1.0)
    part = ((sampled.progress - knots[first]) / width)[:, None]
    straight = values[first] + (values[last] - values[first]) * np.where(last > first, part.T, 0).T
    drawn = np.where(sampled.steps[None, :], values[first], straight)
    return np.abs(sampled.places - drawn)


def _thinned(one: Curve, progress: tuple[float, ...]) -> Track:
    values: tuple[Value, ...] = tuple(value_at(one, place) for place in progress)
    if all(value == values[0] for value in values):
        return Track("constant", (0.0,), values[:1])
    return Track("steps" if one.track.form == "steps" else "linear", progress, values)


def _rounding(one: Curve, progress: tuple[float, ...]) -> float:
    """What rounding adds to the deviation of a knob, beside that of its curve."""
    still = all(value == one.track.values[0] for value in one.track.values)
    same = one.track.form in ("linear", "steps") and one.track.progress == progress
    if still or same or one.track.form == "steps" or isinstance(one.domain, Choice):
        return 0.0
    if isinstance(one.domain, Float) and min(min(row) for row in one.rows) >= ZERO_SHARE:
        return 0.0  # the part of log+0 that means zero is never touched
    return one.domain.grain
