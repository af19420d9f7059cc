"""A plan on its way through Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpo.trial import Outcome, Plan, Travelled
from objectives.training.measurement import Measurement


@dataclass
class Execution:
    """A plan on its way: what Ray calls it, where it runs, what it measured last, and how it ended
    if that is known."""

    plan: Plan
    travelled: Travelled
    trial: Any = None
    started: bool = False
    measurement: Measurement | None = None
    outcome: Outcome | None = None
    seconds: float = 0.0

    @property
    def numbers(self) -> list[int]:
        """The trials of the study that have not ended."""
        return [self.plan.number]

    @property
    def worker(self) -> str:
        """The host and the process that it was last heard of from; empty before that."""
        last = getattr(self.trial, "last_result", None) or {}
        return f"{last['hostname']}/{last['pid']} " if "pid" in last else ""

    def pruned(self) -> Outcome:
        """How it ends if it is ended now."""
        extra = self.travelled.found()
        return Outcome("pruned", seconds=self.seconds, worker=self.worker, extra=extra)

    def end_worker(self) -> None:
        """Kills its worker if it has one."""
        import ray

        state = getattr(self.trial, "temporary_state", None)
        if state is not None and state.ray_actor is not None:
            ray.kill(state.ray_actor, no_restart=True)


def told(result: Mapping[str, Any]) -> Outcome:
    """How a worker says that a trial ended. It knows the seconds since it took the trial up last;
    Ray those before as well, also of the way to a checkpoint that was another trial's."""
    outcome = Outcome(**json.loads(result["outcome"]))
    return replace(outcome, seconds=max(outcome.seconds, float(result["time_total_s"])))
