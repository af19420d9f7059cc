"""Ray Tune's own schedulers beside the study: it is told first, then Ray decides.

A scheduler that lets trials wait (a population's does, HyperBand) knows all of them from the
beginning; they wait, paused, until there is room.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm, SearchGenerator

from hpo.engines._ray.driving import Question
from hpo.engines._ray.tune import AskAndTell, Forward

if TYPE_CHECKING:
    from hpo.engines._ray.driving import Drive


def scheduler(drive: Drive) -> TrialScheduler:
    """What Ray schedules the trials of a study with."""
    found = drive.scheduling
    if found is None:
        return Forward(drive)
    mixin = Inheriting if found.evolution else Halving if found.pauses else Recalling
    kind = type(f"Study{found.kind.__name__}", (mixin, found.kind), {})
    settings = {"time_attr": "step", "metric": "score", "mode": drive.mode, **found.settings}
    made: Any = kind(**settings)
    made.drive, made.kept = drive, set()
    if isinstance(made, Recalling):
        made.recall()
    return made


class Deciding:
    """In front of a scheduler of Ray's: the study takes in a result, then Ray is asked."""

    drive: Drive

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = trial.trial_id
        if not self.drive.measured(name, result):
            return str(TrialScheduler.STOP)
        question = self.drive.question(name, result)
        if question is None:
            return str(TrialScheduler.CONTINUE)
        with self._chance(question.asked["step"], self.drive.number(name)):
            decision = self._asked(tune_controller, trial, question.asked)
        return self._decided(name, question, decision)

    def _asked(self, tune_controller: Any, trial: Any, asked: dict[str, Any]) -> Any:
        """What Ray decides."""
        return super().on_trial_result(tune_controller, trial, asked)  # type: ignore[misc]

    def _decided(self, name: str, question: Question, decision: Any) -> str:
        if question.last:  # it has come to its end: there is nothing left to save
            return str(TrialScheduler.CONTINUE)
        if decision == TrialScheduler.STOP:
            self.drive.prune(name)
        elif decision != TrialScheduler.CONTINUE:
            self.drive.silence.end(name)
        return str(decision)

    @contextmanager
    def _chance(self, step: int, number: int) -> Iterator[None]:
        """What a scheduler draws depends on the study's seed, the step and the trial alone; on the
        trial only where it does not wait for all of them: who is last is chance."""
        last = "" if getattr(self, "_synch", False) else number
        seen = f"{self.drive.study.spec.seed}:{step}:{last}"
        seed = int.from_bytes(blake2b(seen.encode(), digest_size=4).digest(), "big")
        before, numpy_before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.drive.met(trial.trial_id, trial)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """None in particular: Ray starts those that are pending as there is room."""


@dataclass(frozen=True)
class Known:
    """A trial by the study's number, under which a scheduler knows all its executions."""

    trial_id: int


class Recalling(Deciding):
    """The same for asha, which also knows what was measured by executions that were lost, under an
    earlier driver too: so it decides what it would have decided without these losses."""

    _brackets: list[Any]
    _metric_op: float
    _trial_info: dict[int, Any]
    ends: dict[int, int]

    def recall(self) -> None:
        """Shows the scheduler the measurements that the study has, in the order of its spool."""
        spec, self.ends = self.drive.study.spec, {}
        for _, event in self.drive.study.spool.read():
            score = event.get("metrics", {}).get(spec.metric)
            if event["event"] != "measurement" or score is None or not math.isfinite(score):
                continue
            known, step = Known(event["trial"]), event["step"]
            bracket = self._bracket(known)
            decision = bracket.on_result(known, step, self._metric_op * score)
            if decision == TrialScheduler.STOP and event["progress"] < 1.0:
                self.ends.setdefault(known.trial_id, step)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._bracket(Known(self.drive.number(trial.trial_id)))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: it has been asked about every measurement."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: what was measured counts on."""

    def _asked(self, tune_controller: Any, trial: Any, asked: dict[str, Any]) -> Any:
        known = Known(self.drive.number(trial.trial_id))
        if asked["step"] >= self.ends.get(known.trial_id, math.inf):
            return TrialScheduler.STOP
        return super()._asked(tune_controller, known, asked)

    def _bracket(self, known: Known) -> Any:
        """Where a trial is compared, drawn once."""
        if known.trial_id not in self._trial_info:
            with self._chance(0, known.trial_id):
                super().on_trial_add(None, known)  # type: ignore[misc]
        return self._trial_info[known.trial_id]


class Gathering(Deciding):
    """The same for one that lets trials wait; `_due` says which of them goes on first, if any."""

    kept: set[Any]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)  # type: ignore[misc]
        trial.set_status(Trial.PAUSED)
        self._waits(tune_controller, trial, True)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._waits(tune_controller, trial, False)
        super().on_trial_complete(tune_controller, trial, result)  # type: ignore[misc]

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._waits(tune_controller, trial, False)
        super().on_trial_remove(tune_controller, trial)  # type: ignore[misc]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._waits(tune_controller, trial, False)
        super().on_trial_error(tune_controller, trial)

    def _waits(self, tune_controller: Any, trial: Any, waits: bool) -> None:
        """Lets Ray keep a worker for a trial that may wait, until it has ended: a new one takes
        seconds to start. There is no public way to say so."""
        if waits != (trial in self.kept):
            self.kept ^= {trial}
            controller = getattr(tune_controller, "_tune_controller", tune_controller)
            by = 1 if waits else -1
            controller._actor_cache.increase_max(trial.placement_group_factory, by)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The one that is due, if there is room for it; else one that is on its way."""
        trials = [t for t in tune_controller.get_trials() if not t.is_finished()]
        paused = [trial for trial in trials if trial.status == Trial.PAUSED]
        pending = [trial for trial in trials if trial.status == Trial.PENDING]
        if len(trials) - len(paused) < self.drive.room and not self.drive.over:
            due = self._due(paused, pending)
            if due is None and len(trials) == len(paused):  # those they wait for are gone
                due = self._stuck(tune_controller, paused)
            if due is not None:
                return due
        return next(iter(pending), None)

    def _due(self, paused: Sequence[Any], pending: Sequence[Any]) -> Any:
        raise NotImplementedError

    def _stuck(self, tune_controller: Any, paused: Sequence[Any]) -> Any:
        """The one that goes on where all wait for some that have ended."""
        return next(iter(paused), None)


class Halving(Gathering):
    """The same for HyperBand: the trials that its brackets let go on."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._bracket(trial).trials_to_unpause.add(trial)

    def _due(self, paused: Sequence[Any], pending: Sequence[Any]) -> Any:
        ready = (t for t in paused if t in self._bracket(t).trials_to_unpause)
        return next(ready, None)

    def _bracket(self, trial: Any) -> Any:
        info: Any = self._trial_info  # type: ignore[attr-defined]
        return info[trial][0]


class Inheriting(Gathering):
    """The same for a population: an heir keeps its own plan and gets the donor's knobs, changed."""

    _perturbation_interval: float
    _next_perturbation_sync: float
    _synch: bool
    _trial_state: dict[Any, Any]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """One that goes on from a checkpoint is compared next where it would have been."""
        super().on_trial_add(tune_controller, trial)
        every = self._perturbation_interval
        due = every * max(1, math.ceil(self.drive.reached(trial.trial_id) / every))
        self._trial_state[trial].last_perturbation_time = due - every
        self._next_perturbation_sync = max(self._next_perturbation_sync, due)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        tune_controller.get_live_trials().discard(trial)  # else the others wait for it for ever

    def _due(self, paused: Sequence[Any], pending: Sequence[Any]) -> Any:
        """The one that is furthest behind; where all wait for each other, none that is there."""

        def reached(trial: Any) -> float:
            return float(self._trial_state[trial].last_train_time)

        if self._synch:
            paused = [trial for trial in paused if reached(trial) < self._next_perturbation_sync]
        due = min(paused, key=reached, default=None)
        behind = due is not None and all(reached(due) <= reached(trial) for trial in pending)
        return due if behind else None

    def _stuck(self, tune_controller: Any, paused: Sequence[Any]) -> Any:
        """Those that are left are compared without the ones that they have waited for; those that
        have just been compared wait for a comparison that Ray has put where they are."""
        states = [self._trial_state[trial] for trial in paused]
        if states and all(s.last_perturbation_time >= s.last_train_time > 0 for s in states):
            reached = max(state.last_train_time for state in states)
            self._next_perturbation_sync = reached + self._perturbation_interval
            return self._due(paused, ())
        last = self._trial_state[paused[0]].last_result if paused and self._synch else None
        if not last:
            return super()._stuck(tune_controller, paused)
        with self._chance(last["step"], self.drive.number(paused[0].trial_id)):
            super(Deciding, self).on_trial_result(  # type: ignore[misc]
                tune_controller, paused[0], last
            )
        return self._due(paused, ())

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], Any]:
        made, operations = super()._get_new_config(trial, trial_to_clone)  # type: ignore[misc]
        assert self.drive.population is not None
        heir = self.drive.population.inherited(trial_to_clone.config, made["knobs"])
        return {**trial.config, **heir}, operations


class Members(SearchAlgorithm):  # type: ignore[misc]
    """AskAndTell for schedulers of populations, which refuse whatever Ray makes of a searcher."""

    def __init__(self, drive: Drive) -> None:
        self._generator = SearchGenerator(AskAndTell(drive))

    @property
    def total_samples(self) -> int:
        return int(self._generator.total_samples)

    def add_configurations(self, experiments: Any) -> None:
        self._generator.add_configurations(experiments)

    def next_trial(self) -> Any:
        return self._generator.next_trial()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._generator.on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        return bool(self._generator.is_finished())

    def set_finished(self) -> None:
        self._generator.set_finished()
