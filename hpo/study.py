"""The study: the ledger's only writer. `ask` for a plan, `observe` its measurements, `tell` how it
ended; an engine needs nothing else.

A trial that was interrupted (its worker or the driver died) stays open in the ledger and is taken
up again under the same number, from its checkpoint where there is one. So a resumed study with one
worker equals the uninterrupted one, and no trial is counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from hpo import ledger, pruners, recovery, samplers
from hpo.errors import HpoError
from hpo.folder import Folder, replace_json
from hpo.journal import Journal
from hpo.ledger import TrialRecord, better
from hpo.lock import DriverLock, Lease
from hpo.problem import Problem
from hpo.samplers import Request
from hpo.samplers._suggest import suggest
from hpo.spool import Spool
from hpo.tally import Tally
from hpo.trial import Outcome, Plan
from objectives.training.measurement import Measurement
from search_spaces.schedule import Schedule

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Sink = Callable[[Mapping[str, Any]], None]


@dataclass
class _Running:
    """A trial between ask and tell. `seen`: steps an interrupted execution delivered already."""

    trial_id: int
    plan: Plan
    attempts: list[dict[str, Any]] = field(default_factory=list)
    announced: bool = False
    seen: frozenset[int] = frozenset()
    best: Measurement | None = None
    last: Measurement | None = None


class Study:
    """A study being driven by this process. `hpo.opening.open_for_driving` makes one."""

    def __init__(
        self,
        problem: Problem,
        folder: Folder,
        optuna_study: optuna.Study,
        journal: Journal | None,
        guard: DriverLock | Lease,
    ) -> None:
        self.problem, self.spec, self.folder = problem, problem.spec, folder
        self.optuna = optuna_study
        self.sinks: list[Sink] = []
        self.spool = Spool(folder.spool)
        self.stopping = ""
        self.tally = Tally(self.spec.direction)
        self._storage = optuna_study._storage
        self._journal, self._guard = journal, guard
        self._sampler = samplers.load(self.spec.sampler)
        options = samplers.parse_options(self._sampler, self.spec.sampler_options)
        self._request = Request(problem.space.coordinates(), options, self.spec.budget.trials)
        self._running: dict[int, _Running] = {}
        self._again: list[_Running] = []
        self._deadline = time.monotonic() + (self.spec.budget.time or float("inf"))
        self._take_stock()

    # -- what an engine calls -------------------------------------------------------------------

    def ask(self) -> Plan | None:
        """The next plan, or None if none may start now (`done` tells whether one ever will)."""
        if any(running.plan.alone for running in self._running.values()):
            return None
        if self._again and not self.stopping:
            if self._again[0].plan.alone and self._running:
                return None
            running = self._again.pop(0)
        elif self._has_asked_enough():
            return None
        else:
            running = self._new_trial()
        self._running[running.plan.number] = running
        self._announce(running)
        return running.plan

    def observe(self, number: int, measurement: Measurement) -> bool:
        """Takes in a measurement of a running trial; False if the trial should end now."""
        running = self._running[number]
        running.last = measurement
        than = None if running.best is None else self._score(running.best)
        if better(self._score(measurement), than, self.spec.direction):
            running.best = measurement
        if measurement.step in running.seen:
            return True
        self.emit(
            "measurement",
            trial=number,
            attempt=running.plan.attempt,
            step=measurement.step,
            progress=measurement.progress,
            metrics=measurement.metrics,
            point=dict(measurement.point),
        )
        return not self._prune(running, measurement)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Ends a trial, or keeps it open to be run again if the rule for its failure says so."""
        running = self._running.pop(number)
        if outcome.state == "failed" and self._retry(running, outcome):
            return
        if outcome.state == "complete" and running.best is None:
            message = "it ended without a finite measurement"
            outcome = replace(outcome, state="failed", reason="nan", message=message)
        self._write_end(running, outcome)
        score = self._score(running.best) if running.best else None
        is_best = self.tally.end(outcome.state, score, outcome.message)
        self._emit_end(running, outcome)
        if is_best and running.best is not None:
            replace_json(self.folder.schedule, running.plan.schedule)
            value = running.best.metrics[self.spec.metric]
            self.emit("best", trial=number, step=number, value=value)
        recovery.forget_checkpoint(running.plan.checkpoint)

    def tick(self) -> None:
        """Keeps the study alive and reads stop requests; engines call it every few seconds."""
        if isinstance(self._guard, Lease):
            self._guard.renew()
        if not self.stopping and self.folder.stop_request.exists():
            self.stopping = self.folder.stop_request.read_text().strip() or "finish"

    def done(self) -> bool:
        """Whether nothing runs and nothing will be asked for any more."""
        if self._running:
            return False
        return bool(self.stopping) or (not self._again and self._has_asked_enough())

    def leave(self, number: int) -> None:
        """Forgets a running trial without ending it: the next driver takes it up again."""
        self._running.pop(number, None)

    @property
    def running(self) -> Mapping[int, Plan]:
        """The plans being carried out, by trial."""
        return {number: running.plan for number, running in self._running.items()}

    # -- results --------------------------------------------------------------------------------

    def records(self) -> list[TrialRecord]:
        """All trials of the ledger, in order of their numbers."""
        trials = self.optuna.get_trials(deepcopy=False)
        return [ledger.record(trial, self.problem.space) for trial in trials]

    def emit(self, event: str, **data: Any) -> None:
        """Writes an event to the spool and hands it to every sink."""
        record = {"event": event, "time": int(time.time() * 1000), **data}
        self.spool.append(record)
        for sink in self.sinks:
            sink(record)

    def close(self) -> None:
        """Frees the study for another driver. Its state is in the ledger already."""
        self.folder.stop_request.unlink(missing_ok=True)
        self.spool.close()
        if self._journal is not None:
            self._journal.close()
        self._guard.release()

    # -- asking ---------------------------------------------------------------------------------

    def _has_asked_enough(self) -> bool:
        budget, tally = self.spec.budget, self.tally
        return (
            bool(self.stopping)
            or tally.asked >= budget.trials
            or time.monotonic() > self._deadline
            or (budget.plateau is not None and tally.since_best >= budget.plateau)
            or tally.hopeless
            or (tally.asked > 0 and samplers.exhausted(self._sampler, self.optuna, self._request))
        )

    def _new_trial(self) -> _Running:
        number = self.tally.asked
        self._use_sampler(number)
        with self._together():
            trial = self.optuna.ask()
            if trial.number != number:
                raise HpoError(
                    f"study {self.spec.name}: the ledger gave trial {trial.number}, not {number}",
                    hint="another program writes to this study; only hpo run may",
                    code="second-writer",
                )
            values = suggest(trial, self._request.coordinates)
        self.tally.asked += 1
        return _Running(trial._trial_id, self._plan(number, 0, values))

    def _use_sampler(self, number: int) -> None:
        """A sampler that depends on the study's seed and this number alone."""
        self.optuna.sampler = samplers.at_ask(
            self._sampler, study_seed=self.spec.seed, number=number, request=self._request
        )

    def _plan(self, number: int, attempt: int, values: Mapping[str, Any]) -> Plan:
        problem = self.problem
        schedule = problem.schedule(values).to_json()
        checkpoint = str(self.folder.trial(number)) if problem.is_task else None
        return Plan(number, attempt, schedule, self.spec.seed, checkpoint)

    def _announce(self, running: _Running) -> None:
        if running.announced:
            return
        running.announced = True
        self.emit(
            "start",
            trial=running.plan.number,
            attempt=running.plan.attempt,
            params=Schedule.from_json(running.plan.schedule).at(0.0),
            tags={
                "hpo.study": self.spec.name,
                "hpo.sampler": self.spec.sampler,
                "hpo.seed": str(self.spec.seed),
            },
        )

    # -- observing ------------------------------------------------------------------------------

    def _score(self, measurement: Measurement) -> float:
        """What trials and steps are compared by: the selection hold-out where there is one."""
        holdout = self._holdout(measurement)
        return measurement.metrics[self.spec.metric] if holdout is None else holdout

    def _holdout(self, measurement: Measurement) -> float | None:
        metric = self.spec.metric
        if not metric.startswith("val_"):
            return None
        return measurement.metrics.get(f"holdout_{metric.removeprefix('val_')}")

    def _prune(self, running: _Running, measurement: Measurement) -> bool:
        if self.spec.prune == "none":
            return False
        self._report(running, measurement)
        if isinstance(self.optuna.pruner, optuna.pruners.NopPruner):
            # Pruners count in steps, and only now it is known how far apart measurements are.
            share = measurement.progress
            last = round(measurement.step / share) if share else None
            self.optuna.pruner = pruners.build(self.spec.prune, measurement.step, last)
        return self.optuna.pruner.prune(self.optuna, self._storage.get_trial(running.trial_id))

    def _report(self, running: _Running, measurement: Measurement) -> None:
        value = measurement.metrics[self.spec.metric]
        with self._together(durable=False):
            self._storage.set_trial_intermediate_value(running.trial_id, measurement.step, value)

    # -- ending ---------------------------------------------------------------------------------

    def _retry(self, running: _Running, outcome: Outcome) -> bool:
        """Lost: up to `retries` times at the same step. Out of memory: once, alone. Else: never."""
        step = running.last.step if running.last else None
        before = [a for a in running.attempts if a["reason"] == outcome.reason]
        alone = outcome.reason == "oom"
        if alone:
            allowed = bool(self.spec.retries) and not before
        else:
            without_progress = [a for a in before if (a["step"] or 0) >= (step or 0)]
            allowed = outcome.reason == "lost" and len(without_progress) < self.spec.retries
        if not allowed:
            return False
        running.attempts.append(
            {
                "attempt": running.plan.attempt,
                "reason": outcome.reason,
                "message": outcome.message[:500],
                "step": step,
                "worker": outcome.worker,
            }
        )
        with self._together():
            self._storage.set_trial_user_attr(running.trial_id, ledger.ATTEMPTS, running.attempts)
        self.emit(
            "retry",
            trial=running.plan.number,
            attempt=running.plan.attempt,
            reason=outcome.reason,
            message=outcome.message,
            step=step,
        )
        self._again.append(self._once_more(running, outcome, alone))
        return True

    def _once_more(self, running: _Running, outcome: Outcome, alone: bool) -> _Running:
        """From a checkpoint the same attempt goes on; from scratch a new attempt begins."""
        plan = replace(running.plan, alone=alone)
        found = recovery.delivered(self.spool, plan.number)
        if recovery.has_checkpoint(plan.checkpoint) or not found.steps:
            announced, seen = found.announced, found.steps
        else:
            self._emit_end(running, outcome)
            plan = replace(plan, attempt=plan.attempt + 1)
            announced, seen = False, frozenset[int]()
        return _Running(running.trial_id, plan, running.attempts, announced, seen)

    def _write_end(self, running: _Running, outcome: Outcome) -> None:
        best = running.best
        if outcome.traceback:
            folder = self.folder.trial(running.plan.number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(outcome.traceback)
        attribute = {
            "reason": outcome.reason,
            "message": outcome.message[:2000],
            "seconds": round(outcome.seconds, 3),
            "worker": outcome.worker,
            "step": best.step if best else None,
            "holdout": self._holdout(best) if best else None,
            "metrics": _end_metrics(running),
            **outcome.extra,
        }
        attribute = {key: value for key, value in attribute.items() if value not in ("", None)}
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(outcome.state, TrialState.FAIL)
        complete = state == TrialState.COMPLETE and best is not None
        with self._together():
            self._storage.set_trial_user_attr(running.trial_id, ledger.OUTCOME, attribute)
            if state == TrialState.PRUNED and self.spec.prune == "none" and running.last:
                self._report(running, running.last)  # Optuna takes it as the trial's value
            value = best.metrics[self.spec.metric] if complete and best else None
            self.optuna.tell(running.plan.number, value, state, skip_if_finished=True)

    def _emit_end(self, running: _Running, outcome: Outcome) -> None:
        self.emit(
            "end",
            trial=running.plan.number,
            attempt=running.plan.attempt,
            outcome=outcome.state,
            reason=outcome.reason,
            message=outcome.message,
            metrics={**_end_metrics(running), "seconds": round(outcome.seconds, 3)},
            tags={"hpo.worker": outcome.worker} if outcome.worker else {},
        )

    # -- taking stock ---------------------------------------------------------------------------

    def _take_stock(self) -> None:
        """Counts what the ledger holds and queues trials an earlier driver left open."""
        left_open: list[FrozenTrial] = []
        for trial in self.optuna.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                continue
            self.tally.asked += 1
            if trial.state == TrialState.RUNNING:
                left_open.append(trial)
            else:
                record = ledger.record(trial, self.problem.space)
                self.tally.end(record.state, record.score, record.message)
        for trial in left_open:
            self._adopt(trial)
        self._use_sampler(self.tally.asked)

    def _adopt(self, frozen: FrozenTrial) -> None:
        """Queues a trial whose driver died: from its checkpoint, or from its start."""
        number = frozen.number
        self._use_sampler(number)
        with self._together():
            trial = optuna.trial.Trial(self.optuna, frozen._trial_id)
            values = suggest(trial, self._request.coordinates)
        attempts = list(frozen.user_attrs.get(ledger.ATTEMPTS, ()))
        plan = self._plan(number, recovery.delivered(self.spool, number).attempt, values)
        lost = Outcome("failed", "lost", "the study was interrupted")
        running = _Running(frozen._trial_id, plan, attempts)
        self._again.append(self._once_more(running, lost, alone=False))

    def _together(self, durable: bool = True) -> AbstractContextManager[None]:
        return self._journal.together(durable) if self._journal is not None else nullcontext()


def _end_metrics(running: _Running) -> dict[str, float]:
    best, last = running.best, running.last
    metrics: dict[str, float] = {}
    if best is not None:
        metrics |= {f"best/{key}": value for key, value in best.metrics.items()}
        metrics["best/step"] = best.step
    if last is not None:
        metrics |= {f"final/{key}": value for key, value in last.metrics.items()}
        metrics |= {f"cost/{key}": value for key, value in last.cost.items() if key != "seconds"}
    return metrics
