"""A population as Ray has it: what of a member's config Ray reads, changes and hands on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.problem import Problem
from hpo.trial import Plan

if TYPE_CHECKING:
    from hpo.samplers._population import Evolution
    from search_spaces.domains import Point
    from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Population:
    """The members of a study. In a config, `knobs` is what Ray reckons with, `values` those of the
    coordinates, and `point` what they make of the knobs: text, which Ray leaves alone."""

    problem: Problem
    evolution: Evolution

    def config(self, plan: Plan) -> dict[str, Any]:
        """The knobs of a member where its schedule has led them."""
        space = self.problem.space
        values = _coordinates(space, plan.schedule.at(1.0))
        return {"knobs": self.evolution.held(space.coordinates(), values), **self._told(values)}

    def inherited(self, donor: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
        """The knobs of an heir: a donor's config, and what Ray has made of its knobs."""
        values, domains = json.loads(donor["values"]), self.problem.space.coordinates()
        held, given = self.evolution.inherited(domains, values, donor["knobs"], made)
        return {"knobs": held, **self._told(given)}

    def _told(self, values: Mapping[str, Any]) -> dict[str, str]:
        point = self.problem.schedule(values).at(0.0)
        return {"values": json.dumps(values), "point": json.dumps(point)}


def point(config: Mapping[str, Any]) -> Point:
    """The knobs that a member's config says."""
    found = json.loads(config["point"])
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}


def _coordinates(space: SearchSpace, point: Point) -> dict[str, Any]:
    """The coordinates of a point: of a vector one a strength, of a long one a single one."""
    found: dict[str, Any] = {}
    for coordinate in space.coordinates():
        name, _, place = coordinate.partition("[")
        value = point[name]
        if isinstance(value, tuple):
            value = value[int(place.removesuffix("]") or 0)]
        found[coordinate] = value
    return found
