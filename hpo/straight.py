"""A schedule as points with straight lines between them, as few as a tolerance allows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeAlias

from search_spaces._form import SWINGING
from search_spaces.domains import Choice, Domain, Int, Point, Value, units
from search_spaces.schedule import Schedule

Row: TypeAlias = tuple[float, Point]

FINEST = 1e-6  # of the training: how exactly the place of a jump is met
MOST = 20_000


def points(schedule: Schedule, tolerance: float) -> list[Row]:
    """Progress and point, from 0 to 1. Lines between neighbours (in the values themselves) leave
    the schedule by at most `tolerance` of each range; what cannot be between two values, such as a
    choice, keeps the first until the second."""
    first: Row = (0.0, _plain(schedule.at(0.0)))
    if not schedule.moving(0.0):
        return [first]
    turns = {
        turn / (2 * track.options["cycles"])
        for track in schedule.tracks.values()
        if track.form in SWINGING
        for turn in range(round(2 * track.options["cycles"]))
    }
    # Between these places every track goes one way only.
    places = sorted({0.0, 1.0, *schedule.knots(), *turns})
    rows = [first]
    for low, high in pairwise(places):
        _between(schedule, rows, low, high, tolerance)
    return rows


def _between(
    schedule: Schedule, rows: list[Row], start: float, end: float, tolerance: float
) -> None:
    """Adds rows up to and with `end`, halving the stretch until a straight line follows it.

    A jump of a choice or a whole number gets a row before and a row after it.
    """
    waiting = [(start, end)]
    while waiting:
        low, high = waiting.pop()
        before = _plain(schedule.at(math.nextafter(high, low)))
        wide = high - low > FINEST and len(rows) < MOST
        if wide and not _straight(schedule, rows[-1], (high, before), tolerance):
            middle = (low + high) / 2
            waiting += [(middle, high), (low, middle)]
            continue
        if wide and _steps(schedule, rows[-1][1], before):
            last, first = _jump(schedule, low, high)
            places = (last, first) if last > low else (first,)
            rows += [(place, _plain(schedule.at(place))) for place in places]
            if first < high:
                waiting.append((first, high))
            continue
        after = _plain(schedule.at(high))
        if not _near(schedule, before, after, tolerance) or _steps(schedule, before, after):
            rows.append((math.nextafter(high, low), before))
        rows.append((high, after))


def _jump(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    """The places just before and just after the first jump between the two."""
    first = _plain(schedule.at(low))
    while high - low > FINEST:
        middle = (low + high) / 2
        if _steps(schedule, first, _plain(schedule.at(middle))):
            high = middle
        else:
            low = middle
    return low, high


def _steps(schedule: Schedule, one: Point, other: Point) -> bool:
    """Whether a knob that has nothing between its values has two different ones here."""
    return any(
        one[name] != other[name]
        for name, domain in schedule.space.items()
        if isinstance(domain, Choice | Int)
    )


def _straight(schedule: Schedule, first: Row, last: Row, tolerance: float) -> bool:
    """Whether the knobs with real values run along the line between two rows."""
    (low, before), (high, after) = first, last
    for share in (0.25, 0.5, 0.75):
        drawn = {name: _on_line(value, after[name], share) for name, value in before.items()}
        there = _plain(schedule.at(low + share * (high - low)))
        if not _near(schedule, drawn, there, tolerance):
            return False
    return True


def _on_line(low: Value, high: Value, share: float) -> Value:
    if isinstance(low, tuple) and isinstance(high, tuple):
        return tuple(a + share * (b - a) for a, b in zip(low, high, strict=True))
    if isinstance(low, float) and isinstance(high, float):
        return low + share * (high - low)
    return low


def _near(schedule: Schedule, one: Point, other: Point, tolerance: float) -> bool:
    return all(_close(domain, one[n], other[n], tolerance) for n, domain in schedule.space.items())


def _close(domain: Domain, one: Value, other: Value, tolerance: float) -> bool:
    if one == other or isinstance(domain, Choice | Int):
        return True
    pairs = zip(units(domain, one), units(domain, other), strict=True)
    return all(abs(a - b) <= tolerance for a, b in pairs)


def _plain(point: Point) -> dict[str, Value]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in point.items()}
