"""The study: the ledger's only writer. `ask` for a plan, `observe` its measurements, `tell` how it
ended; an engine needs nothing else.

A trial that was interrupted (its worker or the driver died) stays open in the ledger and is taken
up again under the same number, from its checkpoint where there is one. So a resumed study with one
worker equals the uninterrupted one, and no trial is counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study._tell import _tell_with_warning  # Study.tell also copies the trial: 0.1 ms
from optuna.trial import TrialState

from hpo import events, ledger, lineage, pruners, recovery, samplers
from hpo.errors import HpoError
from hpo.folder import Folder, replace_json, replace_text
from hpo.journal import Journal
from hpo.ledger import TrialRecord
from hpo.lineage import Lineage
from hpo.lock import Guard
from hpo.problem import Problem
from hpo.pruning import Pruning
from hpo.recovery import Delivered
from hpo.running import Running, score
from hpo.samplers import Request
from hpo.samplers._suggest import suggest
from hpo.spool import Spool
from hpo.trial import Outcome, Plan, one_line, place
from objectives.training.measurement import Measurement

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Sink = Callable[[Mapping[str, Any]], None]

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Study:
    """A study being driven by this process. `hpo.opening.open_for_driving` makes one."""

    def __init__(
        self,
        problem: Problem,
        folder: Folder,
        optuna_study: optuna.Study,
        journal: Journal | None,
        guards: Sequence[Guard],
    ) -> None:
        self.problem, self.spec, self.folder = problem, problem.spec, folder
        self.optuna = optuna_study
        self.sinks: list[Sink] = []
        self.spool = Spool(folder.spool)
        self.stopping = ""
        self._stop_request = folder.stop_request
        self._storage = optuna_study._storage
        self._journal, self._guards = journal, guards
        self._sampler = samplers.load(self.spec.sampler)
        options = samplers.parse_options(
            self._sampler, self.spec.sampler_options, self.spec.sampler
        )
        self._pausable = self._sampler.evolve is not None or pruners.pauses(self.spec.prune)
        self._request = Request(problem.space.coordinates(), options, self.spec.budget.trials)
        self._pruning = Pruning(
            optuna_study, self.spec.prune, self.spec.metric, lambda: self._together(durable=False)
        )
        self._running: dict[int, Running] = {}
        self._again: list[Running] = []
        self._owed: list[dict[str, Any]] = []
        self._deadline = time.monotonic() + (self.spec.budget.time or float("inf"))
        self._take_stock()

    def begin(self, **about: Any) -> None:
        """Tells listeners what study this is, and what an earlier driver died before telling."""
        self.emit("study", **about)
        owed, self._owed = self._owed, []
        for event in owed:
            self.emit(**event)

    # -- what an engine calls -------------------------------------------------------------------

    def ask(self, roomy: bool = False) -> Plan | None:
        """The next plan, or None if none may start now (`done` tells whether one ever will).

        A trial that ran out of memory goes again when nothing else runs, unless the engine is
        `roomy`: it can give one trial more than another.
        """
        if not roomy and any(running.plan.alone for running in self._running.values()):
            return None
        if self._again and not self.stopping:
            if not roomy and self._again[0].plan.alone and self._running:
                return None
            running = self._again.pop(0)
            running.plan = lineage.present(running.plan)
        elif self._has_asked_enough():
            return None
        else:
            running = self._new_trial()
        self._running[running.plan.number] = running
        if not running.announced:
            running.announced = True
            self.emit(**events.start(self.spec, running.plan))
        return running.plan

    def ask_together(self, count: int, roomy: bool = False) -> list[Plan]:
        """Up to `count` plans to be carried out together; empty if none may start now.

        Their numbers lie in one block of `count`, so that a study that was interrupted within a
        block does not begin the next one before this is told; one that runs alone is by itself.
        """
        plans: list[Plan] = []
        while len(plans) < count:
            number = self._again[0].plan.number if self._again else self.tally.asked
            alone = bool(self._again) and self._again[0].plan.alone
            if plans and (alone or plans[0].alone or number // count != plans[0].number // count):
                break
            plan = self.ask(roomy)
            if plan is None:
                break
            plans.append(plan)
        return plans

    def observe(self, number: int, measurement: Measurement) -> bool:
        """Takes in a measurement of a running trial; False if the trial should end now."""
        running = self._running[number]
        if running.take(measurement, self.spec):
            self.emit(**events.measured(running.plan, measurement))
        return not self._pruning.ends(running.trial_id, measurement)

    def take_over(self, number: int, found: Lineage, past: Sequence[Measurement]) -> Plan:
        """A running trial goes on from another's checkpoint, whose past is its own from now on.

        Listeners are told what of it lies beyond where the trial was.
        """
        running = self._running[number]
        reached = running.last.step if running.last else 0
        running.begin_again(found.carried_out(running.plan))
        self.emit(**events.exploit(running.plan))
        for measurement in past:
            running.take(measurement, self.spec)
            if measurement.step > reached:
                self.emit(**events.measured(running.plan, measurement))
        return running.plan

    def tell(self, number: int, outcome: Outcome) -> None:
        """Ends a trial, or keeps it open to be run again if the rule for its failure says so."""
        running = self._running.pop(number)
        if outcome.state == "failed" and running.may_go_again(outcome.reason, self.spec.retries):
            self._retry(running, outcome)
            return
        if outcome.state == "complete" and running.best is None:
            message = "it ended without a finite measurement"
            outcome = replace(outcome, state="failed", reason="nan", message=message)
        self._write_end(running, outcome)
        reached = score(running.best, self.spec.metric) if running.best else None
        is_best = self.tally.end(outcome.state, reached, outcome.message)
        if is_best and running.best is not None:
            self.emit(**events.best(number, running.best.metrics[self.spec.metric]))
            schedule = outcome.extra.get("schedule") or running.plan.schedule.to_json()
            replace_json(self.folder.schedule, schedule)
        self._emit_end(running, outcome)
        recovery.forget_checkpoint(running.plan.checkpoint)

    def tick(self) -> None:
        """Keeps the study alive and reads stop requests; engines call it every few seconds."""
        for guard in self._guards:
            guard.renew()
        if self.stopping in {"", "finish"} and self._stop_request.exists():
            self.stopping = self._stop_request.read_text().strip() or "finish"

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

    def reached(self, number: int) -> int:
        """The step that a running trial has come to, as far as listeners know."""
        return max(self._running[number].seen, default=0)

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
        for guard in reversed(self._guards):
            guard.release()

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

    def _new_trial(self) -> Running:
        number = self.tally.asked
        self._use_sampler(number)
        with self._together(durable=False):  # what a power cut takes is asked for again, the same
            trial = self._begun()
            if trial.number != number:
                raise HpoError(
                    f"study {self.spec.name}: the ledger gave trial {trial.number}, not {number}",
                    hint="another program writes to this study; only hpo run may",
                    code="second-writer",
                )
            values = self._suggest(trial)
        self.tally.asked += 1
        return Running(trial._trial_id, self._plan(trial, 0, values))

    def _begun(self) -> optuna.Trial:
        """A trial that was waiting, or a new one. Optuna's `ask` looks for one that waits through
        all trials; this study knows, for nobody else writes to it."""
        if self._waiting:
            self._waiting -= 1
            return self.optuna.ask()
        self.optuna._thread_local.cached_all_trials = None  # as `ask` does
        trial_id = self._storage.create_new_trial(self.optuna._study_id)
        return optuna.Trial(self.optuna, trial_id)

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        try:
            return suggest(trial, self._request.coordinates)
        except HpoError:
            raise
        except Exception as error:
            raise HpoError(
                f"sampler {self.spec.sampler} raised at trial {trial.number}:"
                f" {one_line(error)}{place(error)}",
                hint="nothing is lost: mend it, then continue with hpo run --resume",
                code="sampler-error",
            ) from error

    def _use_sampler(self, number: int) -> None:
        """A sampler that depends on the study's seed and this number alone."""
        self.optuna.sampler = samplers.at_ask(
            self._sampler,
            study_seed=self.spec.seed,
            number=number,
            request=self._request,
            final=ledger.final_point,
        )

    def _role(self, trial: optuna.Trial) -> str:
        """What an in-run sampler wrote down, when the trial began, that it is for."""
        attributes = self._storage.get_trial(trial._trial_id).user_attrs
        return str(attributes.get(samplers.ROLE, ""))

    def _plan(self, trial: optuna.Trial, attempt: int, values: Mapping[str, Any]) -> Plan:
        schedule, number = self.problem.schedule(values), trial.number
        checkpoint = str(self.folder.trial(number)) if self.problem.trains else None
        role = self._role(trial) if self._sampler.in_run else ""
        trials = self.optuna.get_trials(deepcopy=False) if role else []
        vectors = ledger.held_vectors(role, trials, self.problem.space)
        if vectors:
            schedule = schedule.pin({name: self.problem.space[name] for name in vectors}, vectors)
        plan = Plan(number, attempt, schedule, self.spec.seed, checkpoint)
        idle = tuple(sorted(self.problem.idle)) if role == "tuned" else ()
        plan = replace(plan, tuned=role == "tuned", pinned=bool(vectors), idle=idle)
        return replace(plan, pausable=self._pausable)

    # -- ending ---------------------------------------------------------------------------------

    def _retry(self, running: Running, outcome: Outcome) -> None:
        """From a checkpoint the same attempt goes on; from scratch a new attempt begins."""
        running.note_failure(outcome)
        if outcome.reason == "checkpoint":
            recovery.forget_checkpoint(running.plan.checkpoint)
        with self._together():
            self._storage.set_trial_user_attr(running.trial_id, ledger.ATTEMPTS, running.attempts)
        self.emit(**events.retry(running.plan, outcome, running.attempts[-1]["step"]))
        again = running.once_more(recovery.has_checkpoint(running.plan.checkpoint))
        if again.plan.attempt > running.plan.attempt:
            self._emit_end(running, outcome)
        self._again.append(again)

    def _write_end(self, running: Running, outcome: Outcome) -> None:
        if outcome.traceback:
            folder = self.folder.trial(running.plan.number)
            replace_text(folder / "error.txt", outcome.traceback)
        metric, state, value = self.spec.metric, _STATES[outcome.state], None
        if state == TrialState.COMPLETE and running.best is not None:
            value = running.best.metrics[metric]
        attribute = running.attribute(outcome, metric)
        with self._together():
            self._storage.set_trial_user_attr(running.trial_id, ledger.OUTCOME, attribute)
            if state == TrialState.PRUNED and self.spec.prune == "none" and running.last:
                # Optuna takes what was reported last as the value of a pruned trial.
                self._pruning.report(running.trial_id, running.last)
            _tell_with_warning(self.optuna, running.plan.number, value, state, True)

    def _emit_end(self, running: Running, outcome: Outcome) -> None:
        plan = running.plan
        left = sorted((self.folder.trial(plan.number) / "pictures").glob("*.png"))
        pictures = [str(file.absolute()) for file in left]
        metrics = running.end_metrics()
        number, attempt = plan.number, plan.attempt
        self.emit(**events.end(number, attempt, outcome, metrics, pictures, plan.taken))

    # -- taking stock ---------------------------------------------------------------------------

    def _take_stock(self) -> None:
        """Counts what the ledger holds and queues trials an earlier driver left open."""
        trials = self.optuna.get_trials(deepcopy=False)
        stock = recovery.take_stock(trials, self.spool, self.problem)
        recovery.tidy(self.folder, stock, self.problem)
        self.tally = stock.tally
        self._waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        self.tally.give_another_chance()
        self._owed += stock.owed
        for trial, found in stock.left_open:
            self._adopt(trial, found)
        self._use_sampler(self.tally.asked)

    def _adopt(self, frozen: FrozenTrial, found: Delivered) -> None:
        """Queues a trial whose driver died: from its checkpoint, or from its start."""
        number = frozen.number
        self._use_sampler(number)
        with self._together():
            trial = optuna.trial.Trial(self.optuna, frozen._trial_id)
            values = self._suggest(trial)
        attempts = list(frozen.user_attrs.get(ledger.ATTEMPTS, ()))
        plan = self._plan(trial, found.attempt + found.ended, values)
        announced = found.announced and not found.ended
        running = Running(frozen._trial_id, plan, attempts, announced, found.steps)
        again = running.once_more(recovery.has_checkpoint(plan.checkpoint))
        if again.plan.attempt > plan.attempt:
            lost = Outcome("failed", "lost", "the study was interrupted")
            self._owed.append(events.end(number, plan.attempt, lost, {}))
        self._again.append(again)

    def _together(self, durable: bool = True) -> AbstractContextManager[None]:
        return self._journal.together(durable) if self._journal is not None else nullcontext()
