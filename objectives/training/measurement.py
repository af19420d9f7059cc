"""The plain record that a running trial yields."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.errors import HpoError

_KEYS = {"step", "progress", "metrics", "point", "cost"}
_OPTIONAL = {"spread", "notes"}
DIAGNOSTIC = "stn/"  # metrics that begin so are about the tuner: they measure no model
DIAGNOSTICS = (DIAGNOSTIC, "hypergradient/")


@dataclass(frozen=True)
class Measurement:
    """What a trial had reached after `step` training steps.

    `progress` is step / steps. `point` holds the knobs in force at that progress. `cost` is
    cumulative: "gradients" (backward passes), "examples" (examples those passes saw, evaluation not
    counted) and "seconds" (time spent training and evaluating, not waiting for the caller).
    `spread` holds, of knobs that were perturbed, the standard deviation in free units, and `notes`
    what the tuner warns of, in plain words.
    """

    step: int
    progress: float
    metrics: dict[str, float]
    point: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    spread: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether every metric is an ordinary number."""
        return all(math.isfinite(value) for value in self.metrics.values())

    def to_json(self) -> dict[str, Any]:
        """A dict of plain data: tuples become lists, spread and notes are left out if empty."""
        found: dict[str, Any] = {
            "step": self.step,
            "progress": self.progress,
            "metrics": dict(self.metrics),
            "point": _listed(self.point),
            "cost": dict(self.cost),
        }
        if self.spread:
            found["spread"] = _listed(self.spread)
        if self.notes:
            found["notes"] = list(self.notes)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Measurement":
        """The measurement that `to_json` described; HpoError if the dict is something else."""
        if not isinstance(data, Mapping) or set(data) - _OPTIONAL != _KEYS:
            raise HpoError(f"not a measurement: its keys must be {', '.join(sorted(_KEYS))}")
        return cls(
            step=int(data["step"]),
            progress=float(data["progress"]),
            metrics={str(k): float(v) for k, v in data["metrics"].items()},
            point=_unlisted(data["point"]),
            cost={str(k): float(v) for k, v in data["cost"].items()},
            spread=_unlisted(data.get("spread", {})),
            notes=tuple(str(note) for note in data.get("notes", ())),
        )


def is_diagnostic(metric: str) -> bool:
    """Whether a metric is about the tuner and not about the model."""
    return metric.startswith(DIAGNOSTICS)


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _unlisted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
