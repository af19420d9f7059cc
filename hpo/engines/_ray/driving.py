"""A study driven through Ray Tune: what its searcher, its scheduler and its stopper have in common.

Ray Tune asks (`suggest`), reports (`measured`, `ended`, `failed`) and is told to go on or to stop.
An error of the study's own is kept and ends the run: Ray would only log it.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hpo.engines import GRACE, TICK
from hpo.engines._ray.cluster import Cluster
from hpo.engines._ray.environment import of_workers
from hpo.engines._ray.execution import Execution, told
from hpo.engines._ray.files import FILES, arrived, of_checkpoint, receive
from hpo.engines._ray.lost import lost, refuse_environment
from hpo.engines._ray.waiting import Waiting
from hpo.engines._silence import Silence
from hpo.interrupts import Interrupts
from hpo.lineage import Lineage
from hpo.recovery import LINEAGE, forget_checkpoint
from hpo.trial import Plan, Travelled, finite
from objectives.training.measurement import Measurement

if TYPE_CHECKING:
    from hpo.engines._ray.population import Population
    from hpo.scheduling import Scheduling
    from hpo.study import Study

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Question:
    """What a scheduler of Ray's is asked after a measurement; `last`: the trial's last one."""

    asked: dict[str, Any]
    last: bool


def kept(answer: Any) -> Callable[[Method], Method]:
    """Keeps what a method raises, to be raised when Ray has ended; until then it says `answer`."""

    def decorated(method: Method) -> Method:
        @functools.wraps(method)
        def called(drive: Drive, *given: Any) -> Any:
            if drive.error is not None:
                return answer
            try:
                return method(drive, *given)
            except BaseException as error:
                drive.error = error
                return answer

        return cast(Method, called)

    return decorated


@dataclass
class Drive:
    """One run of a study on a cluster. `executions` are by Ray's names of trials."""

    study: Study
    cluster: Cluster
    interrupts: Interrupts
    silence: Silence
    scheduling: Scheduling | None = None
    population: Population | None = None
    executions: dict[str, Execution] = field(default_factory=dict)
    error: BaseException | None = None
    _last_tick: float = 0.0
    _waiting: Waiting = field(init=False)
    _one_has_started: bool = False
    _deadline: float | None = None

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.cluster)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles all that it is given, to restore a run that is never restored."""
        return {}

    @kept(None)
    def suggest(self, name: str) -> dict[str, Any] | None:
        """The config of the next trial; None if none may start now."""
        full = not self._gathers and len(self.executions) >= self.room
        asked = None if full or self._winding_down else self._ask()
        if asked is None:
            return None
        self.executions[name], config = asked
        return config

    def _ask(self) -> tuple[Execution, dict[str, Any]] | None:
        plan = self.study.ask(roomy=True)
        return None if plan is None else (Execution(plan, Travelled(plan)), self.config(plan))

    def config(self, plan: Plan) -> dict[str, Any]:
        """What a worker is told of a plan."""
        folder = self.study.folder.path.absolute()
        return {
            "plan": json.dumps(plan.to_json()),
            "spec": json.dumps(self.study.spec.plain()),
            "asked": self.scheduling is not None,
            "bundle": dict(self.cluster.alone if plan.alone else self.cluster.bundle),
            "worker": {
                "folder": str(folder),
                "mark": (folder / "driver.json").read_text(),
                "cwd": str(Path.cwd()),
                "variables": dict(of_workers(self.cluster.bundle["CPU"])),
                "memory": self.study.spec.memory_per_trial,
            },
            FILES: of_checkpoint(plan.checkpoint),
            **(self.population.config(plan) if self.population else {}),
        }

    @kept(False)
    def measured(self, name: str, result: Mapping[str, Any]) -> bool:
        """Takes in a result; False if its trial should end here."""
        execution = self.executions[name]
        self._catch_up(execution, result)
        self.silence.heard(name)
        execution.seconds = float(result["time_total_s"])
        goes_on = "measurement" not in result or self._observe(execution, result)
        if "outcome" in result:  # its worker leaves with the next step
            execution.outcome = told(result)
            return True
        self.tick()
        if not goes_on:
            self.prune(name)
        return goes_on

    def _observe(self, execution: Execution, result: Mapping[str, Any]) -> bool:
        measurement = Measurement.from_json(json.loads(result["measurement"]))
        execution.travelled.add(measurement)
        execution.measurement = measurement
        return self.study.observe(execution.plan.number, measurement)

    def question(self, name: str, result: Mapping[str, Any]) -> Question | None:
        """What Ray's scheduler is asked about a trial that goes on; None where there is nothing to
        decide: it has failed, or has come to its end."""
        spec, found = self.study.spec, self.executions[name].measurement
        if "outcome" in result or found is None or not finite(found, spec.metric):
            return None
        last = found.progress >= 1.0
        if last and self._gathers:
            return None
        known = ("training_iteration", "time_total_s", "hostname", "pid")
        asked = {key: result[key] for key in known if key in result}
        return Question({**asked, "step": found.step, "score": found.metrics[spec.metric]}, last)

    def prune(self, name: str) -> None:
        """Notes that a trial is ended early."""
        execution = self.executions[name]
        execution.outcome = execution.pruned()

    @kept(None)
    def ended(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial is over: it has said how, or it was told to stop."""
        execution = self._forget(name)
        if execution is None:
            return
        if execution.outcome is None and "outcome" in result:
            self._catch_up(execution, result)
            if "measurement" in result:
                self._observe(execution, result)
            execution.outcome = told(result)
        # One that waited was ended by Ray's scheduler, which had asked nobody.
        self.study.tell(execution.plan.number, execution.outcome or execution.pruned())

    @kept(None)
    def failed(self, name: str) -> None:
        """A trial's worker is gone."""
        self._check_workers(name)
        execution = self._forget(name)
        if execution is None:
            return
        execution.end_worker()  # it may only have been out of reach, and would go on
        outcome = execution.outcome or lost(execution.trial)
        if not outcome.worker:
            outcome = replace(outcome, worker=execution.worker)
        for number in execution.numbers:
            self.study.tell(number, outcome)

    def met(self, name: str, trial: Any) -> None:
        """Notes the trial that Ray made of a config."""
        if name in self.executions:
            self.executions[name].trial = trial

    def started(self, name: str) -> None:
        """Ray has found room for a trial."""
        self.silence.begin(name)
        if name in self.executions:
            self.executions[name].started = self._one_has_started = True

    @kept(None)
    def tick(self) -> None:
        """Keeps the study alive, and gives up trials that have been silent for too long."""
        now = time.monotonic()
        if now - self._last_tick < TICK:
            return
        self._last_tick = now
        self.study.tick()
        if self.interrupts.count and self._deadline is None:
            grace = 0.0 if self._gathers else GRACE  # those are saved at every measurement
            self._deadline = now + grace
            self.study.stopping = "interrupted"
            if grace:
                self.study.emit("stopping", seconds=grace, trials=sorted(self.study.running))
        for name in self.silence.lost():
            self._give_up(str(name))
        self._tell_of_waiting()

    def number(self, name: str) -> int:
        """The study's number of a trial."""
        return self.executions[name].plan.number

    def reached(self, name: str) -> int:
        """The step that a trial has come to, for one that goes on from a checkpoint."""
        return self.study.reached(self.number(name))

    @property
    def mode(self) -> str:
        """The direction of the study as Ray calls it."""
        return "max" if self.study.spec.direction == "maximize" else "min"

    @property
    def room(self) -> int:
        """How many trials may run at once."""
        return self.cluster.room()

    @property
    def over(self) -> bool:
        """Whether Ray should stop everything at once."""
        if self.error is not None or self.study.stopping == "now" or self.interrupts.count > 1:
            return True
        late = self._deadline is not None and time.monotonic() > self._deadline
        in_vain = bool(self.study.stopping) and self._waiting.is_long
        return late or in_vain or (self._winding_down and not self.executions)

    def close(self) -> None:
        """Leaves open what did not come to its end; raises what was kept."""
        for execution in self.executions.values():
            for number in execution.numbers:
                self.study.leave(number)
        if self.error is not None:
            raise self.error

    @property
    def _winding_down(self) -> bool:
        return bool(self.interrupts.count)

    @property
    def _gathers(self) -> bool:
        """Whether all trials are known to Ray from the beginning."""
        return self.scheduling is not None and self.scheduling.pauses

    def _catch_up(self, execution: Execution, result: Mapping[str, Any]) -> None:
        """Takes in what came with a result: files, and the past of a trial that goes on from a
        checkpoint, its own or another's."""
        self._receive(execution, result)
        past = [Measurement.from_json(data) for data in json.loads(result.get("past", "[]"))]
        if "lineage" in result:
            found = Lineage.from_json(json.loads(result["lineage"]))
            execution.plan = self.study.take_over(execution.plan.number, found, past)
            return
        for measurement in past:
            execution.travelled.add(measurement)
            self.study.observe(execution.plan.number, measurement)

    def _forget(self, name: str) -> Execution | None:
        execution = self.executions.pop(name, None)
        outcome = execution.outcome if execution is not None else None
        self.silence.end(name, complete=outcome is not None and outcome.state == "complete")
        return execution

    def _tell_of_waiting(self) -> None:
        if any(execution.started for execution in self.executions.values()):
            self._waiting.over()
        elif not self.over and (reason := self._waiting.reason()) is not None:
            trials = max(1, len(self.executions))
            self.study.emit("waiting", **{"trials": trials, "for": reason})

    def _check_workers(self, name: str) -> None:
        """Raises Unavailable if no worker has started so far and none ever can."""
        execution = self.executions.get(name)
        if execution is not None and not self._one_has_started:
            refuse_environment(execution.trial)

    def _give_up(self, name: str) -> None:
        execution = self.executions[name]
        execution.outcome = self.silence.outcome(execution.worker)
        self.silence.end(name)
        execution.end_worker()

    def _receive(self, execution: Execution, result: Mapping[str, Any]) -> None:
        """Writes the files that came with a result to the study."""
        found = arrived(result)
        if LINEAGE in found:  # it belongs to the checkpoints that come with it
            forget_checkpoint(execution.plan.checkpoint)
        if found:
            receive(self.study.folder.trial(execution.plan.number), found)
