"""The one training loop: a generator of Measurements."""

import math
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch

from objectives.training import checkpoint as checkpoints
from objectives.training.evaluation import evaluate, held_out_splits, unknown
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from objectives.training.stopping import Patience
from objectives.training.task import Task, locked, task_name
from objectives.training.tuner import Tuner, asked
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer

# Asking a GPU for a number makes the host wait for it, so there the loss is looked at this seldom.
LOOK_EVERY = 25


def train(
    task: Task,
    regularizers: Mapping[str, Regularizer],
    tuner: Tuner,
    training: Training,
    seed: int,
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float | None = None,
    device: str | torch.device = "cpu",
) -> Generator[Measurement]:
    """Trains a task's model under a tuner's knobs; yields `training.evaluations` Measurements.

    Metrics: train_loss (mean since the last measurement, without penalty), val_loss, val_error
    (class targets); holdout_loss and holdout_error where there is a split "selection"; the task's
    own metrics with these prefixes; what the tuner reports. The test split stays locked.

    Closing the generator ends the run and takes every hook off the model. If the loss stops being a
    finite number, the last measurement has nan in it. Global generators are left as they were.

    checkpoint: a file from which a killed run goes on, first giving its measurements again; on a
    CPU it then equals an uninterrupted run bit for bit. checkpoint_seconds: see `Saver`. Errors
    (HpoError) come with the first `next`.
    """
    setting = Setting(locked(task), regularizers, tuner, training, seed, found_device(device))
    streams = GlobalStreams(seed, setting.device)
    run: Run | None = None
    try:
        with streams.active():
            run = Run(setting, streams)
            run.begin()
            trial = _Trial(run, checkpoint, checkpoint_seconds)
        yield from trial.history
        while not trial.done:
            with streams.active():
                measurement = trial.advance()
            yield measurement
    finally:
        if run is not None:
            run.close()


class _Trial:
    """A run between measurements: its history, its patience, its checkpoint."""

    def __init__(self, run: Run, path: Path | None, seconds: float | None) -> None:
        self._run = run
        self._saver = checkpoints.Saver(path, seconds)
        self._patience = Patience(run.training.patience)
        self._stops = run.training.evaluation_steps()
        self.history: list[Measurement] = []
        self.done = False
        if path is not None and path.exists():
            self._resume(path)

    def advance(self) -> Measurement:
        """Trains to the next evaluation, measures, and saves."""
        begun = time.perf_counter()
        run = self._run
        train_loss = self._train_until(next(s for s in self._stops if s > run.step))
        run.regularization.rest_at(run.tuner.point(run.step / run.training.steps))
        diverged = not math.isfinite(train_loss)
        known = (name for measurement in self.history for name in measurement.metrics)
        held_out = unknown(run.task, known) if diverged else _held_out(run)
        metrics = {"train_loss": train_loss, **held_out}
        progress = run.step / run.training.steps
        moving = run.tuner.moving(progress)
        self.done = (
            run.step >= run.training.steps
            or not math.isfinite(metrics["val_loss"])
            or self._patience.exhausted(metrics["val_loss"], moving)
        )
        said = asked(run, metrics)
        run.spend(seconds=time.perf_counter() - begun)
        measurement = Measurement(
            run.step,
            progress,
            {**metrics, **{k: v for k, v in said.metrics.items() if k not in metrics}},
            dict(run.tuner.point(progress)),
            dict(run.cost),
            said.spread,
            said.notes,
        )
        self.history.append(measurement)
        if self._saver.due(last=self.done):
            self._saver.save(self._content())
        return measurement

    def _train_until(self, step: int) -> float:
        """The mean loss of the steps taken; nan or infinity if one of them was not finite."""
        run, begun = self._run, self._run.step
        look_every = 1 if run.device.type == "cpu" else LOOK_EVERY
        losses = torch.zeros((), device=run.device, dtype=torch.float32)
        totals = torch.zeros_like(losses)
        while run.step < step:
            loss, total = run.train_step()
            losses += loss
            totals += total  # once it is not finite it stays so
            if run.step % look_every == 0 or run.step == step:
                seen = float(totals)
                if not math.isfinite(seen):
                    return seen
        return float(losses) / (step - begun)

    def _content(self) -> dict[str, Any]:
        return {
            "trial": _identity(self._run),
            "run": self._run.state_dict(),
            "patience": self._patience.state_dict(),
            "history": [measurement.to_json() for measurement in self.history],
            "done": self.done,
        }

    def _resume(self, path: Path) -> None:
        content = checkpoints.load(path)
        try:
            checkpoints.require_same(path, content["trial"], _identity(self._run))
            self._run.load_state_dict(content["run"])
            self._patience.load_state_dict(content["patience"])
            self.history = [Measurement.from_json(data) for data in content["history"]]
            self.done = content["done"]
        except torch.OutOfMemoryError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise checkpoints.unfit(path, error) from error


def _identity(run: Run) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that takes it up."""
    return {
        "objective": task_name(run.task),
        "seed": run.seed,
        "training": run.training.to_json(),
        "regularizers": run.regularization.names,
    }


def _held_out(run: Run) -> dict[str, float]:
    """The metrics on the validation split, and on the selection hold-out where there is one."""
    metrics: dict[str, float] = {}
    for prefix, split in held_out_splits(run.task).items():
        measured = evaluate(run.task, run.model, split, run.device)
        metrics |= {f"{prefix}_{name}": value for name, value in measured.items()}
    return metrics


def found_device(device: str | torch.device) -> torch.device:
    """The device of this name; HpoError if there is none, or torch sees no GPU."""
    try:
        where = torch.device(device)
    except RuntimeError:
        raise HpoError(
            f"unknown device '{device}'", hint="for instance cpu, cuda, cuda:1", code="bad-device"
        ) from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise HpoError(
            f"device {where} was asked for, but torch sees no GPU",
            hint="use device cpu, or check with hpo doctor",
            code="no-device",
        )
    return where
