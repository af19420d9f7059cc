"""A schedule as points with straight lines between them, as few as a tolerance allows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeAlias

from search_spaces.domains import Choice, Domain, Int, Value, units
from search_spaces.schedule import Schedule

Row: TypeAlias = tuple[float, dict[str, Value]]

FINEST = 1e-6  # of the training: how exactly the place of a jump is met
MOST = 20_000


def points(schedule: Schedule, tolerance: float) -> list[Row]:
    """Progress and point, from 0 to 1. Lines between neighbours (in the values themselves) leave
    the schedule by at most `tolerance` of each range; what cannot be between two values, such as a
    choice, keeps the first until the second."""
    first = (0.0, _plain(schedule.at(0.0)))
    if not schedule.moving(0.0):
        return [first]
    turns = {
        turn / (2 * track.options["cycles"])
        for track in schedule.tracks.values()
        if track.form == "cyclical"
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

    The last value before a jump at `end` gets a row of its own.
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
        after = _plain(schedule.at(high))
        if not _near(schedule, before, after, tolerance):
            rows.append((math.nextafter(high, low), before))
        rows.append((high, after))


def _straight(schedule: Schedule, first: Row, last: Row, tolerance: float) -> bool:
    (low, before), (high, after) = first, last
    for share in (0.25, 0.5, 0.75, 1.0):
        place = low + share * (high - low) if share < 1.0 else math.nextafter(high, low)
        drawn = {name: _on_line(value, after[name], share) for name, value in before.items()}
        if not _near(schedule, drawn, _plain(schedule.at(place)), tolerance):
            return False
    return True


def _on_line(low: Value, high: Value, share: float) -> Value:
    if isinstance(low, tuple) and isinstance(high, tuple):
        return tuple(a + share * (b - a) for a, b in zip(low, high, strict=True))
    if isinstance(low, float) and isinstance(high, float):
        return low + share * (high - low)
    return low


def _near(
    schedule: Schedule, one: dict[str, Value], other: dict[str, Value], tolerance: float
) -> bool:
    return all(_close(schedule.space[n], one[n], other[n], tolerance) for n in one)


def _close(domain: Domain, one: Value, other: Value, tolerance: float) -> bool:
    if one == other:
        return True
    if isinstance(domain, Choice | Int):
        return False
    pairs = zip(units(domain, one), units(domain, other), strict=True)
    return all(abs(a - b) <= tolerance for a, b in pairs)


def _plain(point: dict[str, Value]) -> dict[str, Value]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in point.items()}
