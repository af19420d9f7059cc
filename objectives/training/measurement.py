"""The plain record that a running trial yields."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.errors import HpoError

_KEYS = {"step", "progress", "metrics", "point", "cost"}


@dataclass(frozen=True)
class Measurement:
    """What a trial had reached after `step` training steps.

    `progress` is step / steps. `point` holds the knobs in force at that progress. `cost` is
    cumulative: "gradients" (backward passes), "examples" (examples those passes saw, evaluation not
    counted) and "seconds" (time spent training and evaluating, not waiting for the caller).
    """

    step: int
    progress: float
    metrics: dict[str, float]
    point: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether every metric is an ordinary number."""
        return all(math.isfinite(value) for value in self.metrics.values())

    def to_json(self) -> dict[str, Any]:
        """A dict of plain data; vector knobs become lists."""
        point = {k: list(v) if isinstance(v, tuple) else v for k, v in self.point.items()}
        return {
            "step": self.step,
            "progress": self.progress,
            "metrics": dict(self.metrics),
            "point": point,
            "cost": dict(self.cost),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Measurement":
        """The measurement that `to_json` described; HpoError if the dict is something else."""
        if not isinstance(data, Mapping) or set(data) != _KEYS:
            raise HpoError(f"not a measurement: its keys must be {', '.join(sorted(_KEYS))}")
        point = {k: tuple(v) if isinstance(v, list) else v for k, v in data["point"].items()}
        return cls(
            step=int(data["step"]),
            progress=float(data["progress"]),
            metrics={str(k): float(v) for k, v in data["metrics"].items()},
            point=point,
            cost={str(k): float(v) for k, v in data["cost"].items()},
        )
