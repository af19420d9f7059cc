"""The training loop for several schedules at once: what `loop.train` yields of each, in one go."""

import math
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objectives.training.ensemble import Ensemble
from objectives.training.evaluation import unknown
from objectives.training.loop import LOOK_EVERY, found_device
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from objectives.training.stopping import Patience
from objectives.training.task import Task, locked
from objectives.training.tuner import Follow
from search_spaces.regularizer import Regularizer
from search_spaces.schedule import Schedule


@dataclass(frozen=True)
class Reached:
    """A measurement of one member, counted from 0; `last` if its run is over with it."""

    member: int
    measurement: Measurement
    last: bool


def train_together(
    task: Task,
    regularizers: Mapping[str, Regularizer],
    schedules: Sequence[Schedule],
    training: Training,
    seed: int,
    *,
    device: str | torch.device = "cpu",
) -> Generator[list[Reached], Collection[int] | None]:
    """Trains a task's model under several schedules; yields what its members have reached.

    All have the seed, and with it the start, the batches and the random draws of `loop.train`: a
    member's measurements are those of a run of its own up to the rounding of numbers. Members that
    are sent back (`run.send({0, 3})`) end; the others are not touched by that, nor by one whose
    loss stops being finite. "seconds" are shared out among those that were trained in them. There
    are no checkpoints. Errors (HpoError) come with the first `next`.
    """
    tuners = [Follow(schedule) for schedule in schedules]
    setting = Setting(locked(task), regularizers, tuners[0], training, seed, found_device(device))
    streams = GlobalStreams(seed, setting.device)
    run: Run | None = None
    try:
        with streams.active():
            run = Run(setting, streams)
            run.begin()
            trials = _Trials(Ensemble(run, tuners))
        while trials.live:
            with streams.active():
                reached = trials.advance()
            ended = yield reached
            trials.end({r.member for r in reached if r.last}.union(ended or ()))
    finally:
        if run is not None:
            run.close()


class _Trials:
    """The members of an ensemble between measurements. All have begun at once, so they have cost
    the same."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble, training = ensemble, ensemble.run.training
        self._stops = training.evaluation_steps()
        self.live = [(n, Patience(training.patience)) for n in range(len(ensemble.tuners))]
        self._measured: set[str] = set()
        self._begun, self._losses, self._totals = self._interval()

    def advance(self) -> list[Reached]:
        """Trains to the next evaluation and measures. Where losses stop being finite it ends
        before, with the measurements of those concerned alone."""
        run, begun = self._ensemble.run, time.perf_counter()
        stop = next(s for s in self._stops if s > run.step)
        train_losses = self._train_until(stop)
        diverged = [not math.isfinite(loss) for loss in train_losses]
        held_out = [unknown(run.task, self._measured)] * len(self.live)
        if run.step == stop:
            if not all(diverged):
                measured = self._ensemble.held_out()
                held_out = [
                    *(
                        u if gone else m
                        for u, m, gone in zip(held_out, measured, diverged, strict=True)
                    )
                ]
                self._measured |= measured[0].keys()
            self._begun, self._losses, self._totals = self._interval()
        run.spend(seconds=(time.perf_counter() - begun) / len(self.live))
        return [
            self._reached(row, {"train_loss": loss, **held_out[row]})
            for row, loss in enumerate(train_losses)
            if diverged[row] or run.step == stop
        ]

    def end(self, numbers: Collection[int]) -> None:
        """Ends members: the others go on without them."""
        rows = [row for row, (number, _) in enumerate(self.live) if number not in numbers]
        if len(rows) == len(self.live):
            return
        self.live = [self.live[row] for row in rows]
        if rows:
            self._ensemble.keep(rows)
            self._losses, self._totals = self._losses[rows], self._totals[rows]

    def _interval(self) -> tuple[int, Tensor, Tensor]:
        """The step at which one begins, and each member's losses and totals in it so far."""
        run = self._ensemble.run
        zeros = torch.zeros(len(self.live), device=run.device, dtype=torch.float32)
        return run.step, zeros, zeros.clone()

    def _train_until(self, step: int) -> list[float]:
        """The mean losses since the last evaluation, nan or infinity where they are not finite any
        more; it may come back before `step` for these."""
        run = self._ensemble.run
        look_every = 1 if run.device.type == "cpu" else LOOK_EVERY
        while run.step < step:
            losses, totals = self._ensemble.train_step()
            self._losses += losses
            self._totals += totals  # once it is not finite it stays so
            if run.step % look_every == 0 and not bool(self._totals.isfinite().all()):
                break
        taken = run.step - self._begun
        pairs = zip(self._losses.tolist(), self._totals.tolist(), strict=True)
        return [loss / taken if math.isfinite(total) else total for loss, total in pairs]

    def _reached(self, row: int, metrics: dict[str, float]) -> Reached:
        run, tuner = self._ensemble.run, self._ensemble.tuners[row]
        number, patience = self.live[row]
        progress = run.step / run.training.steps
        last = (
            run.step >= run.training.steps
            or not math.isfinite(metrics["val_loss"])
            or patience.exhausted(metrics["val_loss"], tuner.moving(progress))
        )
        point = dict(tuner.point(progress))
        return Reached(
            number, Measurement(run.step, progress, metrics, point, dict(run.cost)), last
        )
