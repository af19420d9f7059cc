"""One trial: a plan goes in, Measurements come out. The same call in any process.

Everything a worker needs is text and numbers (`Job`, `Plan`), so a local process and a remote actor
are the same thing.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpo import tuning
from hpo.blackbox import require_metric, run_black_box
from hpo.errors import HpoError
from hpo.problem import Problem
from objectives.training.blame import described
from objectives.training.blame import one_line as one_line
from objectives.training.blame import place as place
from objectives.training.measurement import Measurement
from search_spaces.schedule import Schedule

if TYPE_CHECKING:
    from objectives.training.tuner import Tuner

State = Literal["complete", "pruned", "failed"]
Reason = Literal["", "nan", "oom", "lost", "checkpoint", "error"]


@dataclass(frozen=True)
class Plan:
    """What one execution of a trial needs besides the study's spec.

    `tuned`: the schedule is where it begins. `pinned`: it holds vectors at values that the trial's
    coordinates do not tell. `idle`: knobs that the driver has found no
    derivative for. `pausable`: it may be stopped at any measurement and taken up there; `taken`:
    the trials whose checkpoints it went on from, and their steps then.
    """

    number: int
    attempt: int
    schedule: Schedule
    seed: int
    checkpoint: str | None = None
    alone: bool = False
    tuned: bool = False
    pinned: bool = False
    idle: tuple[str, ...] = ()
    pausable: bool = False
    taken: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "schedule": self.schedule.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        schedule, idle = Schedule.from_json(data["schedule"]), tuple(data["idle"])
        taken = tuple((trial, step) for trial, step in data["taken"])
        return Plan(**{**data, "schedule": schedule, "idle": idle, "taken": taken})


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `message` is one line for people, `traceback` what a developer needs."""

    state: State
    reason: Reason = ""
    message: str = ""
    traceback: str = ""
    seconds: float = 0.0
    worker: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def run_trial(problem: Problem, plan: Plan) -> Generator[Measurement]:
    """The measurements of one trial: its schedule, followed, or bent from its start."""
    if not plan.tuned:
        return follow(problem, plan.schedule, plan.seed, plan.checkpoint, plan.pausable)
    if problem.is_bilevel:
        checkpoint = _checkpoint(plan.checkpoint, plan.seed)
        problem = replace(problem, idle=problem.idle.union(plan.idle))
        return tuning.descended(problem, plan.schedule, plan.seed, checkpoint)
    tuner = tuning.tuner(problem, plan.schedule)
    return _train(problem, tuner, plan.seed, plan.checkpoint, plan.pausable)


def follow(
    problem: Problem,
    schedule: Schedule,
    seed: int,
    checkpoint: str | None = None,
    pausable: bool = False,
) -> Generator[Measurement]:
    """The measurements of training under a schedule, repeats over seeds averaged step by step.

    `checkpoint` is the folder from which an interrupted run goes on; one that is `pausable` saves
    at every measurement, not only when that is worth its time. Closing the generator ends
    the run. Raises whatever the objective raises, and HpoError where it breaks its contract.
    """
    seeds = [seed + repeat for repeat in range(problem.spec.seeds)]
    runs = [_run_once(problem, schedule, one, checkpoint, pausable) for one in seeds]
    with closing(runs[0] if len(runs) == 1 else _averaged(runs)) as run:
        for measurement in run:
            require_metric(measurement.metrics, problem, "gave")
            yield measurement


def drain(problem: Problem, plan: Plan, observe: Callable[[Measurement], bool]) -> Outcome:
    """Runs a trial to its end, handing each measurement to `observe`, whose False prunes it.

    Whatever the objective raises becomes an outcome; what `observe` raises passes through.
    """
    with closing(execute(problem, plan)) as trial:
        try:
            measurement = next(trial)
            while True:
                measurement = trial.send(observe(measurement))
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def execute(problem: Problem, plan: Plan) -> Generator[Measurement, bool, Outcome]:
    """The measurements of a trial, each answered by whether it goes on; returns how it ended.

    Whatever the objective raises becomes the outcome. Closing the generator ends the trial without
    one. A process that the objective forked and that comes back into this code ends here.
    """
    started, owner = time.perf_counter(), os.getpid()
    outcome = yield from _executed(problem, plan, owner)
    if os.getpid() != owner:
        os._exit(0)
    return replace(outcome, seconds=time.perf_counter() - started)


def _executed(problem: Problem, plan: Plan, owner: int) -> Generator[Measurement, bool, Outcome]:
    metric, path = problem.spec.metric, Travelled(plan)
    try:
        with closing(run_trial(problem, plan)) as run:
            for measurement in run:
                if os.getpid() != owner:
                    os._exit(0)
                path.add(measurement)
                goes_on = yield measurement
                if not finite(measurement, metric):
                    return not_finite(measurement, metric)
                if not goes_on:
                    return Outcome("pruned", extra=path.found())
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return failure(error)
    return Outcome("complete", extra=path.found())


class Travelled:
    """The way that the knobs of a tuned trial went; nothing for a trial that follows its plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows: list[Measurement] = []

    def add(self, measurement: Measurement) -> None:
        if self._plan.tuned:
            self._rows.append(measurement)

    def found(self) -> dict[str, Any]:
        if not self._rows:
            return {}
        planned = self._plan.schedule
        begun = (0.0, planned.at(0.0), self._rows[0].spread)
        rows = [begun, *((row.progress, row.point, row.spread) for row in self._rows)]
        return {"schedule": Schedule.recorded(planned.space, rows).to_json()}


def failure(error: BaseException) -> Outcome:
    """The outcome of a trial that raised: out of memory, or an error of the objective's."""
    text = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        return Outcome("failed", "oom", one_line(error), text)
    if isinstance(error, HpoError):
        reason: Reason = "checkpoint" if error.code == "bad-checkpoint" else "error"
        return Outcome("failed", reason, str(error), text)
    if isinstance(error, SystemExit):
        message = f"the objective called sys.exit({error.code!r})"
        return Outcome("failed", "error", message + place(error), text)
    return Outcome("failed", "error", described(error), text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a device or in the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "CUDA out of memory" in text or "can't allocate memory" in text
    )


def not_finite(measurement: Measurement, metric: str) -> Outcome:
    """The outcome of a trial whose metric is no finite number any more."""
    value = measurement.metrics[metric]
    return Outcome("failed", "nan", f"{metric} is {value} at step {measurement.step}")


def finite(measurement: Measurement, metric: str) -> bool:
    """Whether the minimized or maximized metric of a measurement is a finite number."""
    return math.isfinite(measurement.metrics[metric])


def _run_once(
    problem: Problem, schedule: Schedule, seed: int, folder: str | None, pausable: bool
) -> Generator[Measurement]:
    if problem.is_bilevel:
        from hpo.bilevel.implicit.measuring import solved

        point = tuning.whole_point(problem, schedule.at(1.0))
        return solved(problem.target, point, seed, None if folder is None else Path(folder))
    if not problem.is_task:
        return run_black_box(problem, schedule, seed)
    from objectives.training.tuner import Follow

    return _train(problem, Follow(schedule), seed, folder, pausable)


def _train(
    problem: Problem, tuner: Tuner, seed: int, folder: str | None, pausable: bool
) -> Generator[Measurement]:
    from objectives.training.loop import train

    assert problem.training is not None
    return train(
        problem.target,
        problem.regularizers,
        tuner,
        problem.training,
        seed,
        checkpoint=_checkpoint(folder, seed),
        checkpoint_seconds=0.0 if pausable else None,
        device=default_device(),
    )


def _checkpoint(folder: str | None, seed: int) -> Path | None:
    """The file from which a run of this seed goes on."""
    return None if folder is None else Path(folder) / f"seed-{seed}.pt"


def default_device() -> str:
    """cuda, or mps, where this process sees one, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _averaged(runs: Sequence[Generator[Measurement]]) -> Generator[Measurement]:
    """Runs in lock-step; a run that ended early keeps its last measurement."""
    last: list[Measurement | None] = [None] * len(runs)
    live = set(range(len(runs)))
    try:
        while live:
            for index in sorted(live):
                try:
                    last[index] = next(runs[index])
                except StopIteration:
                    live.discard(index)
            present = [m for m in last if m is not None]
            if live and present:
                yield _mean(present)
    finally:
        for run in runs:
            run.close()


def _mean(measurements: Sequence[Measurement]) -> Measurement:
    first = max(measurements, key=lambda measurement: measurement.step)
    shared = [key for key in first.metrics if all(key in other.metrics for other in measurements)]
    return Measurement(
        first.step,
        first.progress,
        {k: sum(m.metrics[k] for m in measurements) / len(measurements) for k in shared},
        first.point,
        {k: sum(m.cost.get(k, 0.0) for m in measurements) for k in first.cost},
        first.spread,
        tuple(dict.fromkeys(note for m in measurements for note in m.notes)),
    )
