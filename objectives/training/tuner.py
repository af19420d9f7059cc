"""The in-run half of a sampler: who says, at each step, what the knobs are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from search_spaces.schedule import Schedule

if TYPE_CHECKING:
    import torch

    from objectives.training.state import Run


class Tuner(Protocol):
    """Gives the knobs of every step, and may change them within the run.

    The loop calls `begin` once, then for each step `knobs`, one regularized training step,
    `after_step`. A tuner that learns does its own work in `after_step`: it reads validation batches
    from the run, steps its own optimizer, and leaves the gradients of the model's parameters to be
    cleared by the loop. Hooks it puts on modules go through `run.keep`, so that they are gone when
    the run ends.

    It may have four methods more, each of which the loop calls at a measurement, in this order:
    `measured(run, metrics)` takes in the losses on the held-out splits, if they are finite;
    `report() -> {name: number}` gives metrics, of names that begin with stn/; `spread() -> {knob:
    number or tuple}` the perturbations in force; `notes()` warnings in plain words, one line each.
    """

    def begin(self, run: "Run") -> None:
        """Called before the first step, and before `load_state_dict` when a run is continued."""

    def knobs(self, progress: float, rows: int) -> "Mapping[str, Any | torch.Tensor]":
        """Each knob's strength for the coming batch of `rows` examples.

        A plain value, a tensor of no dimension, or (for a knob that acts on each example by itself)
        a tensor of shape (rows,). A vector knob is a tuple, or a tensor whose last dimension is its
        size.
        """

    def after_step(self, run: "Run", progress: float) -> None:
        """Called when the optimizer has stepped; `progress` counts that step."""

    def point(self, progress: float) -> Mapping[str, Any]:
        """The knobs as plain values, as they are recorded in measurements and schedules."""

    def moving(self, progress: float) -> bool:
        """Whether some knob may still change after `progress`; early stopping waits for that."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data from which the tuner continues exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the state that `state_dict` gave."""


class Follow:
    """The tuner that learns nothing: it follows a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._settled: tuple[float, Mapping[str, Any]] | None = None

    def begin(self, run: "Run") -> None:
        return None

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        return self.point(progress)

    def after_step(self, run: "Run", progress: float) -> None:
        return None

    def point(self, progress: float) -> Mapping[str, Any]:
        if self._settled is not None and progress >= self._settled[0]:
            return self._settled[1]
        point = self.schedule.at(progress)
        if not self.schedule.moving(progress):
            # Most schedules are constant: do not interpolate again at each step.
            self._settled = (progress, point)
        return point

    def moving(self, progress: float) -> bool:
        return self.schedule.moving(progress)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None


@dataclass(frozen=True)
class Said:
    """What a tuner has to say at a measurement."""

    metrics: dict[str, float] = field(default_factory=dict)
    spread: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def asked(run: "Run", metrics: Mapping[str, float]) -> Said:
    """What the tuner of a run has to say at a measurement; tuners need not be able to answer."""

    def answer(name: str, *given: Any) -> Any:
        method = getattr(run.tuner, name, None)
        return method(*given) if callable(method) else None

    if math.isfinite(metrics["val_loss"]):
        answer("measured", run, metrics)
    report = answer("report") or {}
    finite = {str(k): float(v) for k, v in report.items() if math.isfinite(v)}
    notes = tuple(str(note) for note in answer("notes") or ())
    return Said(finite, dict(answer("spread") or {}), notes)
