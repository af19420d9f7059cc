"""Values of a run, cut into pieces that MLflow takes in one call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

# MLflow's own limits are 1000 metrics, 100 params and tags, 1000 entities and 1 MB for one call.
_MOST_ENTITIES, _MOST_PARAMS, _MOST_TAGS, _MOST_BYTES = 900, 90, 90, 800_000
_ENTITY_BYTES = 120  # what a metric takes on the wire beside its name


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time: int
    step: int


Entity: TypeAlias = Point | tuple[str, str]
Chunk: TypeAlias = tuple[list[Point], list[tuple[str, str]], list[tuple[str, str]]]


def chunks(
    points: Iterable[Point], params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[Chunk]:
    """The entities cut so that each piece is within MLflow's limits for one call."""
    chunk: Chunk = ([], [], [])
    size = 0
    for kind, entity, cost in _weighed(points, params, tags):
        entities = len(chunk[0]) + len(chunk[1]) + len(chunk[2])
        full = entities >= _MOST_ENTITIES or size + cost > _MOST_BYTES
        if full or len(chunk[1]) >= _MOST_PARAMS or len(chunk[2]) >= _MOST_TAGS:
            yield chunk
            chunk, size = ([], [], []), 0
        chunk[kind].append(entity)  # type: ignore[arg-type]
        size += cost
    if size:
        yield chunk


def _weighed(
    points: Iterable[Point], params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[tuple[int, Entity, int]]:
    for kind, pairs in ((1, params), (2, tags)):
        for key, value in pairs.items():
            yield kind, (key, value), len(json.dumps((key, value))) + _ENTITY_BYTES
    for point in points:
        yield 0, point, 6 * len(point.key) + _ENTITY_BYTES
