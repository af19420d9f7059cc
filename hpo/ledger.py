"""What a study's ledger says: one frozen record a trial, their ranking, the best."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from search_spaces.domains import Point
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace, long

if TYPE_CHECKING:
    import optuna
    import pandas

OUTCOME = "hpo:outcome"
ATTEMPTS = "hpo:attempts"
PRUNED_AT = "hpo:pruned-at"
STEPS = "hpo:steps"

_STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial of the ledger.

    `lineage`: whose checkpoints it went on from, (trial, step) by (trial, step).
    `value` is the metric at `step`, its best step; `holdout` the same metric on the selection
    hold-out there, or None when the task merges the two; `coordinates` what the sampler proposed.
    """

    number: int
    state: str
    value: float | None
    holdout: float | None
    step: int | None
    coordinates: Mapping[str, Any]
    reason: str = ""
    message: str = ""
    seconds: float = 0.0
    worker: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    attempts: Sequence[Mapping[str, Any]] = ()
    schedule: Mapping[str, Any] | None = None
    lineage: Sequence[Sequence[int]] = ()

    @property
    def score(self) -> float | None:
        """What trials are ranked by: the hold-out where there is one."""
        return self.holdout if self.holdout is not None else self.value


def record(frozen: optuna.trial.FrozenTrial, space: SearchSpace) -> TrialRecord:
    """The record of an Optuna trial written by this product."""
    outcome = _outcome(frozen)
    state = _STATES[frozen.state.name]
    return TrialRecord(
        number=frozen.number,
        state=state,
        value=frozen.value if state in {"complete", "pruned"} else None,
        holdout=outcome.get("holdout"),
        step=outcome.get("step"),
        coordinates=coordinates(frozen, space),
        reason=outcome.get("reason", ""),
        message=outcome.get("message", ""),
        seconds=outcome.get("seconds", 0.0),
        worker=outcome.get("worker", ""),
        metrics=outcome.get("metrics", {}),
        attempts=frozen.user_attrs.get(ATTEMPTS, ()),
        schedule=outcome.get("schedule"),
        lineage=outcome.get("lineage", ()),
    )


def _outcome(frozen: optuna.trial.FrozenTrial) -> Mapping[str, Any]:
    """What `Running.attribute` wrote when the trial ended; empty before. Earlier versions wrote
    data where there is text now."""
    written = frozen.user_attrs.get(OUTCOME) or {}
    try:
        outcome = json.loads(written) if isinstance(written, str) else written
    except ValueError:
        outcome = None
    if isinstance(outcome, Mapping):
        return outcome
    raise HpoError(
        f"trial {frozen.number}: what the ledger says of its end is damaged",
        hint="restore the ledger from a copy",
        code="damaged-ledger",
    )


def final_point(frozen: optuna.trial.FrozenTrial) -> Point:
    """Where the knobs of an ended trial arrived, if they moved within the run; else empty."""
    schedule = _outcome(frozen).get("schedule")
    return Schedule.from_json(dict(schedule)).at(1.0) if schedule else {}


def held_vectors(
    role: str, trials: Sequence[optuna.trial.FrozenTrial], space: SearchSpace
) -> dict[str, Any]:
    """Of a trial whose role is to hold where another arrived: the long vectors, which its own
    coordinates cannot tell."""
    if not role.startswith("held "):
        return {}
    final = final_point(trials[int(role.removeprefix("held "))])
    return {name: value for name, value in final.items() if name in space and long(space[name])}


def coordinates(frozen: optuna.trial.FrozenTrial, space: SearchSpace) -> dict[str, Any]:
    """The proposed values in the knobs' own units (Optuna holds some in unit coordinates)."""
    from hpo.samplers._suggest import from_param

    domains = space.coordinates()
    return {
        name: from_param(domains[name], value)
        for name, value in frozen.params.items()
        if name in domains
    }


def ranked(records: Iterable[TrialRecord], direction: str) -> list[TrialRecord]:
    """Completed trials, best first; ties by number."""
    sign = 1 if direction == "minimize" else -1
    done = [r for r in records if r.state == "complete" and r.score is not None]
    return sorted(done, key=lambda r: (sign * (r.score or 0.0), r.number))


def better(value: float, than: float | None, direction: str) -> bool:
    """Whether `value` improves on `than`."""
    if not math.isfinite(value):
        return False
    return than is None or (value < than if direction == "minimize" else value > than)


def schedule_of(
    trial: TrialRecord, space: SearchSpace, fixed_domains: Mapping[str, Any], fixed: Point
) -> Schedule:
    """The schedule a trial followed, with the knobs the study held fixed."""
    if trial.schedule is not None:
        return Schedule.from_json(dict(trial.schedule))
    schedule = space.schedule(trial.coordinates)
    return schedule.pin(fixed_domains, fixed) if fixed else schedule


def frame(records: Sequence[TrialRecord], metric: str) -> pandas.DataFrame:
    """The trials as a table: one row a trial, one column a proposed value."""
    import pandas

    rows = [
        {
            "number": r.number,
            "state": r.state,
            metric: r.value,
            "holdout": r.holdout,
            "step": r.step,
            **{f"start.{name}": value for name, value in r.coordinates.items()},
            "seconds": r.seconds,
            "reason": r.reason,
            "message": r.message,
            "attempts": len(r.attempts) + 1,
            "worker": r.worker,
        }
        for r in records
    ]
    columns = ["number", "state", metric, "holdout", "step"]
    return pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=columns)
