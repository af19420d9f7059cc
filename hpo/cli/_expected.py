"""What `hpo schedule` says of a schedule that was found under perturbed knobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_spaces.schedule import Schedule

LEAST = 0.01  # of a knob's range: a smaller difference is not worth a table
FILES = "A .json file keeps the perturbations, .csv and .py hold the values alone."


def lines(schedule: Schedule) -> list[str]:
    """A table of knobs whose mean under their perturbation is not their value: both, at each knot.

    Nothing for a schedule without spreads; a sentence where all means are the values.
    """
    from hpo.wording import knob, table, terminal_width, without

    if not schedule.spreads:
        return []
    expected = schedule.expected()
    names = [name for name in schedule.spreads if _difference(schedule, expected, name) > LEAST]
    if not names:
        return [
            f"Found under perturbed knobs, on average at these values within {LEAST:.0%}.",
            FILES,
        ]
    moves = schedule.moving(0.0) or expected.moving(0.0)
    places = _places(schedule) if moves else [0.0]
    rows = [[f"{place:.0%}" if moves else "always"] for place in places]
    header = ["progress"]
    for name in names:
        header += [name, f"{name} expected"]
        for row, place in zip(rows, places, strict=True):
            domain = schedule.space[name]
            row += [knob(domain, s.at(place)[name]) for s in (schedule, expected)]
    shown, body, gone = without(header, rows, header[1:], terminal_width())
    narrow = [f"… too narrow for {', '.join(gone)}"] if gone else []
    told = "Found under perturbed knobs. On average they were not at their values:"
    return ["", told, *table(shown, body), *narrow, FILES]


def _difference(schedule: Schedule, expected: Schedule, name: str) -> float:
    """The largest difference of value and mean at a knot, as a share of the range."""
    from search_spaces.domains import units

    domain = schedule.space[name]
    largest = 0.0
    for place in _places(schedule):
        values, means = (units(domain, one.at(place)[name]) for one in (schedule, expected))
        largest = max(largest, *(abs(a - b) for a, b in zip(values, means, strict=True)))
    return largest


def _places(schedule: Schedule) -> list[float]:
    """The knots of values and spreads."""
    moving = (track for track in schedule.spreads.values() if track.form != "constant")
    return sorted({*schedule.knots()}.union(*(track.progress for track in moving)))
