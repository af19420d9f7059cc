"""A trial between ask and tell: what it has delivered, and whether it may go again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from hpo.ledger import better
from hpo.spec import StudySpec
from hpo.trial import Outcome, Plan
from objectives.training.measurement import Measurement, is_diagnostic


@dataclass
class Running:
    """`seen`: the steps that listeners have, also from an execution that was interrupted."""

    trial_id: int
    plan: Plan
    attempts: list[dict[str, Any]] = field(default_factory=list)
    announced: bool = False
    seen: set[int] = field(default_factory=set)
    best: Measurement | None = None
    last: Measurement | None = None

    def take(self, measurement: Measurement, spec: StudySpec) -> bool:
        """Keeps a measurement; True if listeners have not had one of its step."""
        self.last = measurement
        than = None if self.best is None else score(self.best, spec.metric)
        if better(score(measurement, spec.metric), than, spec.direction):
            self.best = measurement
        is_new = measurement.step not in self.seen
        self.seen.add(measurement.step)
        return is_new

    def begin_again(self, plan: Plan) -> None:
        """Forgets what was measured: the trial goes on from where another was."""
        self.plan, self.best, self.last = plan, None, None
        self.seen.clear()

    def may_go_again(self, reason: str, retries: int) -> bool:
        """Lost: up to `retries` times without getting further. Out of memory, or a checkpoint
        that cannot be read: once. Else: never."""
        before = [attempt for attempt in self.attempts if attempt["reason"] == reason]
        if reason in {"oom", "checkpoint"}:
            return retries > 0 and not before
        reached = self.last.step if self.last else 0
        without_progress = [a for a in before if (a["step"] or 0) >= reached]
        return reason == "lost" and len(without_progress) < retries

    def note_failure(self, outcome: Outcome) -> None:
        """Writes a failed execution down in the trial's lineage."""
        self.attempts.append(
            {
                "attempt": self.plan.attempt,
                "reason": outcome.reason,
                "message": outcome.message[:500],
                "step": self.last.step if self.last else None,
                "worker": outcome.worker,
            }
        )

    def once_more(self, can_continue: bool) -> Running:
        """The next execution: the same attempt goes on, or, from scratch, a new one begins.

        Once a trial has run out of memory it runs alone.
        """
        alone = any(attempt["reason"] == "oom" for attempt in self.attempts)
        plan = replace(self.plan, alone=alone)
        if can_continue or not self.seen:
            return Running(self.trial_id, plan, self.attempts, self.announced, set(self.seen))
        return Running(self.trial_id, replace(plan, attempt=plan.attempt + 1), self.attempts)

    def end_metrics(self) -> dict[str, float]:
        """Metrics of the model at the best and at the last step, and what the trial cost."""
        metrics: dict[str, float] = {}
        if self.best is not None:
            metrics |= {f"best/{key}": value for key, value in _of_model(self.best).items()}
            metrics["best/step"] = self.best.step
        if self.last is not None:
            metrics |= {f"final/{key}": value for key, value in _of_model(self.last).items()}
            cost = {key: value for key, value in self.last.cost.items() if key != "seconds"}
            metrics |= {f"cost/{key}": value for key, value in cost.items()}
        return metrics

    def attribute(self, outcome: Outcome, metric: str) -> str:
        """What the ledger keeps of an ended trial besides its value: JSON as text, for Optuna holds
        it as long as the study runs, and as data it takes six times the memory."""
        best = self.best
        attribute = {
            "reason": outcome.reason,
            "message": outcome.message[:2000],
            "seconds": round(outcome.seconds, 3),
            "worker": outcome.worker,
            "step": best.step if best else None,
            "holdout": holdout(best, metric) if best else None,
            "metrics": self.end_metrics(),
            **self._followed(),
            **outcome.extra,
        }
        told = {key: value for key, value in attribute.items() if value not in ("", None)}
        return json.dumps(told, separators=(",", ":"))

    def _followed(self) -> dict[str, Any]:
        """The schedule, where the trial's coordinates do not tell it, and whom it took over."""
        plan, found = self.plan, dict[str, Any]()
        if plan.pinned or plan.taken:
            found["schedule"] = plan.schedule.to_json()
        if plan.taken:
            found["lineage"] = plan.taken
        return found


def _of_model(measurement: Measurement) -> dict[str, float]:
    return {key: value for key, value in measurement.metrics.items() if not is_diagnostic(key)}


def score(measurement: Measurement, metric: str) -> float:
    """What trials and steps are compared by: the selection hold-out where there is one."""
    held_out = holdout(measurement, metric)
    return measurement.metrics[metric] if held_out is None else held_out


def holdout(measurement: Measurement, metric: str) -> float | None:
    """The metric on the selection hold-out, or None where the task merges the two."""
    if not metric.startswith("val_"):
        return None
    return measurement.metrics.get(f"holdout_{metric.removeprefix('val_')}")
