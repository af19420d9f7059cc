"""A search space: named knobs, which of them are active, and their coordinates."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search_spaces import _coordinates, presets
from search_spaces._checks import same
from search_spaces._coordinates import TOGETHER as TOGETHER
from search_spaces._coordinates import long as long
from search_spaces._numbers import shown
from search_spaces.domains import Choice, Domain, Float, Point, Scalar, Value, parse
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

if TYPE_CHECKING:
    from search_spaces.schedule import Schedule

MOST_LISTED, NEAREST = 40, 6  # knobs in a hint: so many are all named, of more only the nearest

# What MLflow accepts in a metric name, less the characters that coordinates add to it.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class SearchSpace(Mapping[str, Domain]):
    """Named domains, in the order they were given."""

    domains: Mapping[str, Domain] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", dict(self.domains))
        for name, domain in self.domains.items():
            _check_name(name)
            _check_conditions(name, domain, self.domains)
        _ordered(self.domains)

    def __getitem__(self, name: str) -> Domain:
        return self.domains[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    @property
    def start(self) -> Point:
        """The point to begin with; a knob that its condition switches off rests."""
        return {name: track.values[0] for name, track in self.schedule({}).tracks.items()}

    def coordinates(self) -> dict[str, Domain]:
        """The scalar knobs of a black-box search, each after the ones its condition names.

        A vector gives one coordinate a strength (`l2[3]`), a searched schedule one a knot
        (`dropout@0.5`) and one a searched place of it (`dropout@until`). A vector of more than 64
        strengths gives a single one, which all of them share: telling them apart is for methods
        that tune within a run. If its strengths start from different values it gives none, and
        stays there between runs.
        """
        return dict(self._coordinates)

    @cached_property
    def _coordinates(self) -> dict[str, Domain]:
        return {
            coordinate: domain
            for name in _ordered(self.domains)
            for coordinate, domain in _coordinates.split(name, self.domains[name])
        }

    @cached_property
    def _own(self) -> dict[str, list[str]]:
        """The coordinates of each knob."""
        split = _coordinates.split
        return {name: [c for c, _ in split(name, one)] for name, one in self.domains.items()}

    def start_coordinates(self) -> dict[str, Scalar]:
        """The start of every coordinate, of the ones that are not active too."""
        return {name: _coordinates.first(domain) for name, domain in self._coordinates.items()}

    def active(self, values: Mapping[str, Scalar]) -> tuple[str, ...]:
        """The coordinates that matter given these values; an unknown parent switches off."""
        live: dict[str, Scalar] = {}
        names = []
        for name, domain in self._coordinates.items():
            if holds(domain, live):
                names.append(name)
                if name in values:
                    live[name] = values[name]
        return tuple(names)

    def schedule(self, values: Mapping[str, Scalar]) -> Schedule:
        """The schedule with these coordinates; what is missing starts where its knob does.

        A knob that its condition switches off is held at `off`, or at its start without one.
        """
        from search_spaces.schedule import Schedule, Track  # it needs this class

        for name in values:
            if name not in self._coordinates:
                known = f"known: {', '.join(list(self._coordinates)[:20])}"
                raise unknown("coordinate", name, self._coordinates, hint=known, path=(name,))
        filled = self.start_coordinates() | dict(values)
        active = set(self.active(filled))
        tracks = {}
        for name, domain in self.domains.items():
            own = self._own[name]
            off = own[0] not in active if own else not holds(domain, filled)
            if off:
                tracks[name] = Track("constant", (0.0,), (resting(domain),))
                continue
            tracks[name] = _coordinates.track(domain, [filled[coordinate] for coordinate in own])
        return Schedule(self, tracks)

    def spec(self) -> dict[str, Any]:
        """Plain data with the keys of a study file."""
        return {name: dict(one) for name, one in self._spec.items()}

    @cached_property
    def _spec(self) -> dict[str, dict[str, Any]]:
        return {name: domain.spec() for name, domain in self.domains.items()}

    @staticmethod
    def parse(data: object, defaults: Mapping[str, Domain], free: bool = False) -> SearchSpace:
        """The space that a study file describes: a preset's name, a list of knobs, or a mapping.

        `defaults` are the knobs that exist; with `free` others may be named if they come with a
        range.
        """
        if isinstance(data, str) and data in defaults and data not in presets.names():
            data = [data]  # a knob that the task has for itself is a space too
        domains: dict[str, Domain] = {}
        inherited: dict[str, Domain] = {}
        for name, given in presets.resolve(data).items():
            if name not in defaults and not (free and _has_range(given)):
                hint = knobs_like(defaults, name)
                if free:
                    hint = f"a knob of your own needs a range: {name}: {{low: 0, high: 1}}"
                raise unknown("knob", name, defaults, hint=hint, path=(name,))
            _check_name(name)
            domains[name] = parse(name, given, defaults.get(name))
            if not (isinstance(given, Mapping) and "when" in given):
                inherited[name] = domains[name]
        for name, domain in inherited.items():
            # What the space leaves out is fixed or rests, and no condition of ours hangs on it.
            known = {knob: values for knob, values in domain.when.items() if knob in domains}
            domains[name] = dataclasses.replace(domain, when=known)
        return SearchSpace(domains)


def holds(domain: Domain, values: Mapping[str, Scalar]) -> bool:
    """Whether the condition of a domain is met by the values of the active knobs so far."""
    return all(
        parent in values and any(same(values[parent], option) for option in allowed)
        for parent, allowed in domain.when.items()
    )


def resting(domain: Domain) -> Value:
    """What a knob is while its condition switches it off: `off` if it has one, else its start."""
    if domain.off is None:
        return domain.start_value()
    return domain.off if domain.size is None else (float(domain.off),) * domain.size


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise HpoError(
            f"{shown(name)} cannot be the name of a knob",
            hint="letters, digits, _ . and - are possible, at most 100, a letter or _ first",
            code="bad-name",
            found=name,
            path=(name,) if isinstance(name, str) else (),
        )


def _check_conditions(name: str, domain: Domain, domains: Mapping[str, Domain]) -> None:
    for parent, allowed in domain.when.items():
        path = (name, "when", parent)
        if parent not in domains:
            hint = f"when can name these knobs of the space: {', '.join(domains)}"
            raise unknown("knob", parent, domains, hint=hint, path=path)
        other = domains[parent]
        if isinstance(other, Float) or other.schedule is not None:
            why = "has real values" if isinstance(other, Float) else "changes during training"
            raise HpoError(
                f"when: {name} cannot depend on {parent}, which {why}",
                hint="a condition can name a choice, or a constant knob with whole numbers",
                code="bad-when",
                path=path,
            )
        for option in allowed:
            if not other.contains(option):
                raise _bad_option(other, parent, option, path)


def _bad_option(other: Domain, parent: str, option: Scalar, path: tuple[str, ...]) -> HpoError:
    if isinstance(other, Choice):
        known = [option if isinstance(option, str) else shown(option) for option in other.options]
        hint = f"options of {parent}: {', '.join(known)}"
        return unknown("option", option, known, hint=hint, path=path)
    return HpoError(
        f"when: {parent} is never {shown(option)}",
        hint=f"{parent} takes whole numbers in its range",
        code="bad-when",
        found=option,
        path=path,
    )


def _ordered(domains: Mapping[str, Domain]) -> list[str]:
    """The names, each after those its condition names; refuses conditions that run in a circle."""
    done: dict[str, None] = {}
    waiting = list(domains)
    while waiting:
        ready = [name for name in waiting if all(parent in done for parent in domains[name].when)]
        if not ready:
            raise HpoError(
                f"the conditions of {', '.join(waiting)} depend on each other in a circle",
                hint="remove one of the when:",
                code="bad-when",
                path=(waiting[0], "when"),
            )
        done |= dict.fromkeys(ready)
        waiting = [name for name in waiting if name not in done]
    return list(done)


def _has_range(given: object) -> bool:
    return isinstance(given, Mapping) and not given.keys().isdisjoint(("low", "high", "options"))


def knobs_like(names: Mapping[str, Domain], word: object) -> str:
    """A hint with the knobs that exist, those that share a prefix such as `augment.` drawn
    together; of very many only those that are spelled like the word."""
    families = sorted({f"{name.partition('.')[0]}.*" if "." in name else name for name in names})
    if len(families) <= MOST_LISTED:
        return f"known: {', '.join(families)}   (hpo list regularizers)"
    near = difflib.get_close_matches(str(word), names, n=NEAREST, cutoff=0.5)
    alike = f"like it: {', '.join(near)}; " if near else ""
    return f"{alike}{len(names)} are known   (hpo list regularizers)"
