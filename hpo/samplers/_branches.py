"""The values a parameter takes in an exhaustive search, and how many combinations they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo.samplers._suggest import distribution, from_param
from search_spaces.domains import Domain, Float, Scalar
from search_spaces.space import holds

MOST = 100_000

# The values of a parameter as Optuna stores them (a choice by its index); None: too many to count.
Branches: TypeAlias = tuple[float, ...] | None


def endless(known: BaseDistribution) -> bool:
    """Whether a parameter has more values than can be tried one by one."""
    if isinstance(known, CategoricalDistribution):
        return False
    count = _count(known)
    return count is None or count > MOST


def branches_of(known: BaseDistribution, points: int | None) -> Branches:
    """All values of a parameter; with `points`, that many, evenly, of a range that has more."""
    if isinstance(known, CategoricalDistribution):
        return tuple(range(len(known.choices)))
    if not isinstance(known, IntDistribution | FloatDistribution):
        return None
    count = _count(known)
    if points is None:
        return None if endless(known) else _all(known, count or 1)
    if count is not None and count <= points:
        return _all(known, count)
    return tuple(dict.fromkeys(_at(known, index / (points - 1)) for index in range(points)))


def branches_in(domain: Domain, points: int | None) -> Branches:
    """The same for a knob; on the scale log+0, zero is one point and the others lie above it."""
    if points is None or not isinstance(domain, Float) or domain.scale != "log+0":
        return branches_of(distribution(domain), points)
    zero, first = domain.to_unit(0.0), domain.to_unit(domain.smallest)
    if points == 2:
        return zero, 1.0
    above = (first + (1.0 - first) * index / (points - 2) for index in range(points - 1))
    return (zero, *above)


def combinations(coordinates: Mapping[str, Domain], points: int | None) -> int:
    """How many combinations a space has, counting a knob with endless values as one.

    Exact, except that counting stops above MOST where knobs depend on each other.
    """
    names = list(coordinates)
    sizes = {name: branches_in(domain, points) for name, domain in coordinates.items()}
    parents = {parent for domain in coordinates.values() for parent in domain.when}

    def below(index: int, values: dict[str, Scalar]) -> int:
        if index == len(names):
            return 1
        name, domain = names[index], coordinates[names[index]]
        branches = sizes[name]
        if branches is None or not holds(domain, values):
            return below(index + 1, values)
        if name not in parents:
            return len(branches) * below(index + 1, values)
        total = 0
        for branch in branches:
            total += below(index + 1, {**values, name: _value(domain, branch)})
            if total > MOST:
                break
        return total

    return below(0, {})


def _value(domain: Domain, branch: float) -> Scalar:
    return from_param(domain, distribution(domain).to_external_repr(branch))


def _count(known: BaseDistribution) -> int | None:
    """How many values a numeric range has; None for a continuous one."""
    if known.single():
        return 1
    if isinstance(known, IntDistribution):
        return (known.high - known.low) // known.step + 1
    if isinstance(known, FloatDistribution) and known.step is not None:
        return round((known.high - known.low) / known.step) + 1
    return None


def _all(known: IntDistribution | FloatDistribution, count: int) -> tuple[float, ...]:
    step = known.step or 0
    return tuple(min(known.low + index * step, known.high) for index in range(count))


def _at(known: IntDistribution | FloatDistribution, share: float) -> float:
    """The value at this share of the way from low to high, on the scale of the parameter."""
    low, high = known.low, known.high
    if share in (0.0, 1.0):
        return high if share else low
    value = low * (high / low) ** share if known.log else low + share * (high - low)
    if known.step is not None:
        value = low + round((value - low) / known.step) * known.step
    inside = min(max(value, low), high)
    return math.floor(inside) if isinstance(known, IntDistribution) else float(inside)


def describe(count: int, conditional: bool) -> str:
    """The number of combinations in words."""
    return f"at least {count:,}" if conditional and count > MOST else f"{count:,}"
