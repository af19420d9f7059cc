"""The numbers that a black-box search sees of one knob, and the track that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces._curve import Track
from search_spaces._form import Form
from search_spaces.domains import Domain, Float, Scalar, Value, scalar

TOGETHER = 64  # a vector with more strengths is searched between runs as one number
EARLIEST, LATEST = 0.01, 1.0  # where a searched place of a schedule may lie


def long(domain: Domain) -> bool:
    """Whether a knob has so many strengths that a search between runs takes them together."""
    return domain.size is not None and domain.size > TOGETHER


def split(name: str, domain: Domain) -> Iterator[tuple[str, Domain]]:
    """The coordinates of one knob: knot by knot, and strength by strength within a knot; after
    them the searched places of its schedule."""
    form = domain.schedule or Form()
    knots = ["" if form.kind == "constant" else f"@{label}" for label in form.labels]
    start = domain.start_value()
    one = scalar(domain)
    if long(domain) and isinstance(one, Float) and isinstance(start, tuple):
        if len(set(start)) > 1:
            return
        one = dataclasses.replace(one, start=start[0])
    for knot in knots:
        if isinstance(one, Float) and isinstance(start, tuple) and not long(domain):
            for index, value in enumerate(start):
                yield f"{name}[{index}]{knot}", dataclasses.replace(one, start=value)
        else:
            yield name + knot, one
    for label, place in form.waits.items():
        yield f"{name}@{label}", Float(EARLIEST, LATEST, start=place, when=domain.when)


def first(domain: Domain) -> Scalar:
    """The start of a coordinate."""
    start = domain.start_value()
    return start[0] if isinstance(start, tuple) else start


def track(domain: Domain, found: Sequence[Scalar]) -> Track:
    """The track of a knob whose coordinates have these values; without any, it stays at its
    start."""
    form = domain.schedule or Form()
    last = len(found) - len(form.waits) if found else 0
    numbers = [domain.settle(value) for value in found[:last]]
    waits = [place for place in found[last:] if isinstance(place, int | float)]
    if long(domain):
        numbers = _shared(domain, numbers, form)
    values = _one_way(domain, _grouped(domain, numbers), form.monotone)
    # A stage that ends before it begins is left out: of two at one place the later one counts.
    knots: Mapping[float, Value] = dict(zip(form.progress(waits), values, strict=True))
    return Track(form.curve, tuple(knots), tuple(knots.values()), form.options())


def _shared(domain: Domain, numbers: list[Value], form: Form) -> list[Value]:
    """The strengths of a long vector, knot by knot; its start where it has no coordinate."""
    if not numbers:
        start = domain.start_value()
        assert isinstance(start, tuple)
        return [*start] * len(form.labels)
    return [number for number in numbers for _ in range(domain.size or 1)]


def _grouped(domain: Domain, numbers: list[Value]) -> list[Value]:
    """The value at each knot, from the numbers of all coordinates of a knob."""
    if domain.size is None:
        return numbers
    rows = range(0, len(numbers), domain.size)
    return [domain.settle(tuple(numbers[row : row + domain.size])) for row in rows]  # type: ignore[arg-type]


def _one_way(domain: Domain, values: list[Value], way: str | None) -> list[Value]:
    """The values, none of them back from where an earlier one was."""
    if way is None:
        return values
    sign = 1 if way == "rising" else -1

    def further(before: Any, after: Any) -> Any:
        return max(before, after, key=lambda value: sign * domain.to_unit(value))

    found = values[:1]
    for value in values[1:]:
        before = found[-1]
        if isinstance(value, tuple) and isinstance(before, tuple):
            pairs = zip(before, value, strict=True)
            found.append(domain.settle(tuple(further(a, b) for a, b in pairs)))
        elif not isinstance(value, tuple) and not isinstance(before, tuple):
            found.append(further(before, value))
    return found
