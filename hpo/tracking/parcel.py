"""What one child run gets from a stretch of events, in the names and limits of MLflow."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.tracking.batch import Point

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_MOST_PARAM, _MOST_TAG, _MOST_NAME = 6000, 5000, 250
_LONG = 64  # strengths of a vector; more would be more than anyone can look at


@dataclass
class Parcel:
    """Everything new about one attempt of one trial, sent to its run in a few calls."""

    trial: int
    attempt: int
    step: int
    start: Mapping[str, Any] | None = None
    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    end: tuple[str, int] | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes one event of this attempt.

        A measurement at a step that was measured before is left out: a trial that was cut off
        goes on from a checkpoint and repeats, bit for bit, what it had reported since.
        """
        kind, time = event["event"], int(event["time"])
        if kind == "start":
            self.start = self.start or event
        elif kind == "measurement" and int(event["step"]) > self.step:
            self.step = int(event["step"])
            self.points.extend(measured(event))
        elif kind == "end":
            outcome = str(event["outcome"])
            self.points.extend(_points(event.get("metrics") or {}, time, 0))
            self.tags.update(texts(event.get("tags") or {}, _MOST_TAG))
            self.tags["hpo.outcome"] = outcome
            said = {f"hpo.{name}": event.get(name) or None for name in ("reason", "message")}
            self.tags.update(texts(said, _MOST_TAG))
            self.files.extend(str(file) for file in event.get("artifacts") or ())
            self.end = (STATUS.get(outcome, "FAILED"), time)


def run_name(trial: int, attempt: int) -> str:
    """What the run is called in MLflow."""
    return f"trial {trial}" + (f" attempt {attempt}" if attempt else "")


def measured(event: Mapping[str, Any]) -> Iterator[Point]:
    """The points of a measurement: its metrics, and its knobs as h/<knob>."""
    time, step = int(event["time"]), int(event["step"])
    yield from _points(event.get("metrics") or {}, time, step)
    yield from _points(knobs(event.get("point") or {}), time, step)


def knobs(point: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that can be drawn: numbers as h/<knob>, vectors as h/<knob>/<i>, no text; of long
    vectors the least, the mean and the greatest strength."""
    drawn: dict[str, Any] = {}
    for name, value in point.items():
        if isinstance(value, list | tuple) and len(value) > _LONG:
            mean = sum(value) / len(value)
            some = {"least": min(value), "mean": mean, "most": max(value)}
            drawn.update({f"h/{name}/{which}": number for which, number in some.items()})
        elif isinstance(value, list | tuple):
            drawn.update({f"h/{name}/{index}": entry for index, entry in enumerate(value)})
        elif not isinstance(value, str):
            drawn[f"h/{name}"] = value
    return drawn


def params(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow params; longer texts are cut, the spec in the artifacts is whole."""
    return texts({clean(name): value for name, value in values.items()}, _MOST_PARAM)


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow tags."""
    return texts({clean(name): value for name, value in values.items()}, _MOST_TAG)


def texts(values: Mapping[str, Any], most: int) -> dict[str, str]:
    """Values as text every database takes: no NUL, no half characters, at most `most` long."""
    return {
        str(name): str(value)[:most].replace("\0", " ").encode("utf-8", "replace").decode()
        for name, value in values.items()
        if value is not None
    }


def clean(name: str) -> str:
    """A name MLflow takes: `l2[3]` becomes `l2/3`, `dropout@0.5` becomes `dropout/at_0.5`."""
    name = re.sub(r"\[(\w+)\]", r"/\1", str(name)).replace("@", "/at_")
    name = posixpath.normpath(re.sub(r"[^\w./ -]", "_", name)).lstrip("./ ")
    return name[:_MOST_NAME] or "_"


def _points(values: Mapping[str, Any], time: int, step: int) -> Iterator[Point]:
    for name, value in values.items():
        number = _number(value)
        if number is not None:
            yield Point(clean(name), number, time, step)


def _number(value: Any) -> float | None:
    """The value as a number MLflow can draw; one infinite value would flatten every chart."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.nan
    return math.nan if math.isinf(number) else number
