"""The events of a trial, as plain data for the spool and for everything that listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpo.spec import StudySpec
from hpo.trial import Outcome, Plan
from objectives.training.measurement import Measurement


def start(spec: StudySpec, plan: Plan) -> dict[str, Any]:
    """An attempt begins, from the point at which its schedule does."""
    return {
        "event": "start",
        "trial": plan.number,
        "attempt": plan.attempt,
        "params": plan.schedule.at(0.0),
        "tags": {
            "hpo.study": spec.name,
            "hpo.sampler": spec.sampler,
            "hpo.seed": str(spec.seed),
        },
    }


def measured(plan: Plan, measurement: Measurement) -> dict[str, Any]:
    """An attempt reached a step; `notes` only where its tuner warns of something."""
    notes = {"notes": list(measurement.notes)} if measurement.notes else {}
    return {
        "event": "measurement",
        "trial": plan.number,
        "attempt": plan.attempt,
        "step": measurement.step,
        "progress": measurement.progress,
        "metrics": measurement.metrics,
        "point": dict(measurement.point),
        **notes,
    }


def exploit(plan: Plan) -> dict[str, Any]:
    """A member of a population goes on from another's checkpoint, the last one it has taken."""
    donor, step = plan.taken[-1]
    return {
        "event": "exploit",
        "trial": plan.number,
        "attempt": plan.attempt,
        "donor": donor,
        "step": step,
        "point": plan.schedule.at(1.0),
    }


def took_over(taken: Sequence[Sequence[int]]) -> str:
    """`trial 1 at step 200, trial 3 at step 400`: whom a member has taken over, in words."""
    return ", ".join(f"trial {trial} at step {step}" for trial, step in taken)


def retry(plan: Plan, outcome: Outcome, step: int | None) -> dict[str, Any]:
    """An execution failed and the trial is run again."""
    return {
        "event": "retry",
        "trial": plan.number,
        "attempt": plan.attempt,
        "reason": outcome.reason,
        "message": outcome.message,
        "step": step,
    }


def end(
    number: int,
    attempt: int,
    outcome: Outcome,
    metrics: Mapping[str, float],
    pictures: Sequence[str] = (),
    taken: Sequence[tuple[int, int]] = (),
) -> dict[str, Any]:
    """An attempt is over; `pictures` are files that it has left to be looked at, `taken` the trials
    whose checkpoints it went on from."""
    tags = {"hpo.worker": outcome.worker, "hpo.lineage": took_over(taken)}
    return {
        "event": "end",
        "trial": number,
        "attempt": attempt,
        "outcome": outcome.state,
        "reason": outcome.reason,
        "message": outcome.message,
        "metrics": {**metrics, "seconds": round(outcome.seconds, 3)},
        "tags": {name: text for name, text in tags.items() if text},
        **({"artifacts": list(pictures)} if pictures else {}),
    }


def best(number: int, value: float) -> dict[str, Any]:
    """A trial ended better than all before it."""
    return {"event": "best", "trial": number, "step": number, "value": value}
