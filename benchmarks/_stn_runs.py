"""One run of the race: a method, a seed, and CPU seconds; what it found, and when."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from _stn_problems import RESPONSES, START, Pictures, drawn, fashion, mlp, regularizers, space
from _stn_problems import tuner as tuner_of
from torch import Tensor, nn

from hpo.bilevel.stn.options import SelfTuningOptions
from objectives.training.evaluation import evaluate
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.state import build_model
from objectives.training.tuner import Follow, Tuner
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner

SAMPLERS = {"random": "random", "tpe": "tpe", "gp": "gp", "asha": "random"}
_TRIAL_EPOCHS, _PATIENCE = 30, 6  # of a trial between runs, as in the race this one repeats
_CALIBRATION = 4  # epochs
_SAFE = 0.97  # the share of the budget that is planned; the rest is for a slower machine


@dataclass(frozen=True)
class Job:
    """arm: fixed, a sampler between runs, a self-tuning method, or replay, which trains `epochs`
    epochs under `schedule` (JSON), however long that takes. budget: CPU seconds. start: of all
    dropout rates. width: of the network. rows: of drawn pictures in place of Fashion-MNIST.
    """

    arm: str
    seed: int
    budget: float
    start: float = START
    width: int = 256
    rows: int | None = None
    schedule: str = ""
    epochs: int = 0

    @property
    def tunes(self) -> bool:
        return self.arm in RESPONSES


class Clock:
    """CPU seconds of this process since it was made, against a budget."""

    def __init__(self, budget: float) -> None:
        self._begun, self.budget = time.process_time(), budget

    @property
    def spent(self) -> float:
        return time.process_time() - self._begun

    @property
    def over(self) -> bool:
        return self.spent >= self.budget


class Best:
    """The best validation loss so far, the weights that gave it, and when each best was found."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.val = math.inf
        self.trace: list[tuple[float, float]] = []
        self.weights: dict[str, Tensor] = {}

    def see(self, value: float, model: nn.Module, tuner: Tuner) -> None:
        """Takes in a measurement, if it was made within the budget."""
        spent = self._clock.spent
        if value < self.val and spent <= self._clock.budget:
            self.val = value
            self.trace.append((round(spent, 3), value))
            self.weights = _plain_weights(model, tuner)


def run(job: Job) -> dict[str, Any]:
    """What a job found, as plain data. The test split is read once, after all is over, with the
    weights of the best epoch; that is not billed."""
    torch.set_num_threads(1)
    task = Pictures(fashion() if job.rows is None else drawn(job.rows), lambda: mlp(job.width))
    _warm_up(job)
    clock = Clock(math.inf if job.arm == "replay" else job.budget)
    best = Best(clock)
    if job.tunes:
        found = _tuned(job, task, clock, best)
    elif job.arm == "replay":
        found = _replayed(job, task, best)
    else:
        found = _searched(job, task, clock, best)
    cpu = clock.spent
    return {"cpu": cpu, "val": best.val, "trace": best.trace, **found, **_tested(job, task, best)}


# -- the three kinds of run -----------------------------------------------------------------------


def _tuned(job: Job, task: Pictures, clock: Clock, best: Best) -> dict[str, Any]:
    """One self-tuning run; its length comes from the time of a few epochs, which is billed."""
    knobs = space(job.start)
    epochs = _affordable(job, task, knobs, clock)
    calibration = clock.spent
    tuner = tuner_of(job.arm, knobs)
    rows = list(_epochs(task, tuner, _training(task, epochs), job.seed, clock, best))
    path = [(row.progress, row.point, row.spread) for row in rows]
    schedule = Schedule.recorded(knobs, [(0.0, knobs.start, rows[0].spread), *path])
    return {
        "trials": 1,
        "epochs": epochs,
        "calibration": calibration,
        "cut": len(rows) < epochs,
        "last": rows[-1].metrics["val_loss"],
        "schedule": schedule.to_json(),
    }


def _affordable(job: Job, task: Pictures, knobs: SearchSpace, clock: Clock) -> int:
    """How many epochs of a tuned run fit into what is left of the budget.

    Our knob steps are as far apart as in a run of that length: in the few epochs of a calibration
    they would be closer, and an epoch look dearer than it is. The published methods have a pace of
    their own.
    """
    pace, epochs = SelfTuningOptions().pace, 1
    paces = sorted({pace(task.epoch), pace(10**9)}, reverse=True)
    for every in paces if job.arm == "stn" else [None]:
        each = _epoch_seconds(job, task, tuner_of(job.arm, knobs, every=every))
        epochs = max(1, int((_SAFE * job.budget - clock.spent) / each))
        if pace(epochs * task.epoch) == every:
            break
    return epochs


def _epoch_seconds(job: Job, task: Pictures, tuner: Tuner) -> float:
    """CPU seconds of an epoch in the middle of a run, its evaluation included: the quickest of a
    few, because whatever else the machine does makes them slower; the clock cuts a run that was
    planned too long."""
    clock = Clock(math.inf)
    marks = [
        clock.spent
        for _ in _epochs(task, tuner, _training(task, _CALIBRATION), job.seed, clock, Best(clock))
    ]
    return min(later - earlier for earlier, later in pairwise(marks))


def _replayed(job: Job, task: Pictures, best: Best) -> dict[str, Any]:
    tuner = Follow(Schedule.from_json(json.loads(job.schedule)))
    training = _training(task, job.epochs)
    rows = list(_epochs(task, tuner, training, job.seed, Clock(math.inf), best))
    return {"trials": 1, "epochs": job.epochs, "last": rows[-1].metrics["val_loss"]}


def _searched(job: Job, task: Pictures, clock: Clock, best: Best) -> dict[str, Any]:
    """Trials until the budget is spent; the last is cut, and counts as far as it came. `fixed` is
    one trial at the start values."""
    knobs = space(job.start)
    training = _training(task, _TRIAL_EPOCHS, _PATIENCE)
    if job.arm == "fixed":
        tuner = Follow(Schedule.constant(knobs, {}))
        trials = [len(list(_epochs(task, tuner, training, job.seed, clock, best)))]
    else:
        trials = _study(job, task, knobs, training, clock, best)
    return {"trials": len(trials), "epochs": sum(trials)}


def _study(
    job: Job, task: Pictures, knobs: SearchSpace, training: Training, clock: Clock, best: Best
) -> list[int]:
    """How many epochs each trial of a search had."""
    from optuna.trial import TrialState

    from hpo import pruners
    from hpo.samplers._suggest import suggest, to_param

    prune = "successive_halving" if job.arm == "asha" else "none"
    study = _created(job, knobs, pruners.build(prune, task.epoch, training.steps))
    coordinates = knobs.coordinates()
    if job.arm != "random":
        first = knobs.start_coordinates()
        study.enqueue_trial({n: to_param(d, first[n]) for n, d in coordinates.items()})
    lengths = []
    while not clock.over:
        trial = study.ask()
        tuner = Follow(knobs.schedule(suggest(trial, coordinates)))
        values: list[float] = []
        pruned = False
        for row in _epochs(task, tuner, training, job.seed, clock, best):
            values.append(row.metrics["val_loss"])
            trial.report(values[-1], row.step)
            pruned = trial.should_prune()
            if pruned:
                break
        lengths.append(len(values))
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, min(values))
    return lengths


def _created(job: Job, knobs: SearchSpace, pruner: BasePruner | None) -> Study:
    """An empty study with the sampler of the job, as this project sets it up."""
    import optuna

    from hpo import samplers

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {"startup_trials": 3} if job.arm in ("tpe", "gp") else {}
    sampler = samplers.optuna_sampler(SAMPLERS[job.arm], space=knobs, seed=job.seed, **options)
    return optuna.create_study(sampler=sampler, pruner=pruner)


# -- what they share ------------------------------------------------------------------------------


def _training(task: Pictures, epochs: int, patience: int | None = None) -> Training:
    return Training(
        steps=epochs * task.epoch,
        optimizer="momentum",
        learning_rate=0.01,
        learning_rate_schedule="constant",
        evaluations=epochs,
        patience=patience,
    )


def _epochs(
    task: Pictures, tuner: Tuner, training: Training, seed: int, clock: Clock, best: Best
) -> Iterator[Measurement]:
    """The measurements of a run, one an epoch, until the budget is spent."""
    with closing(train(task, regularizers(), tuner, training, seed)) as measurements:
        for measurement in measurements:
            best.see(measurement.metrics["val_loss"], task.made, tuner)
            yield measurement
            if clock.over:
                return


def _plain_weights(model: nn.Module, tuner: Tuner) -> dict[str, Tensor]:
    """The weights of the plain model that does what the tuned one does at the knobs' centre."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    response: Any = getattr(tuner, "response", None)
    seen = getattr(response, "seen", None)
    if seen is not None:
        folded = response.folded(seen[0])
        weights |= {name: value.detach().clone() for name, value in folded.items()}
    return weights


def _tested(job: Job, task: Pictures, best: Best) -> dict[str, float]:
    """Test loss and error of the best weights. RuntimeError if they are not what was measured."""
    if not best.weights:
        return {"test": math.nan, "test_error": math.nan}
    model = build_model(task, job.seed)
    model.load_state_dict(best.weights)
    again = evaluate(task, model, "validation")["loss"]
    if not math.isclose(again, best.val, rel_tol=1e-4):
        raise RuntimeError(f"{job}: the kept weights have validation loss {again}, not {best.val}")
    found = evaluate(task, model, "test")
    return {"test": found["loss"], "test_error": found["error"]}


def _warm_up(job: Job) -> None:
    """Does once what is slow the first time, imports above all, so that nobody pays for it."""
    task, knobs = Pictures(drawn(256), lambda: mlp(16)), space()
    tuner = tuner_of(job.arm if job.tunes else "follow", knobs)
    clock = Clock(math.inf)
    list(_epochs(task, tuner, _training(task, 2), 0, clock, Best(clock)))
    if job.arm in SAMPLERS:
        from hpo.samplers._suggest import suggest

        coordinates = knobs.coordinates()
        study = _created(job, knobs, None)
        study.optimize(lambda trial: trial.number + len(suggest(trial, coordinates)), n_trials=5)
