"""Hypergradients as a tuner: a network trains as it would anyway, and its knobs follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hpo.bilevel.beside import beside
from hpo.bilevel.implicit.coordinates import Coordinates
from hpo.bilevel.online.knobsteps import Knobs, rate_of, stepped
from hpo.bilevel.online.methods._method import Found, Method
from hpo.bilevel.online.training import TrainingView
from search_spaces.domains import Domain, Point
from search_spaces.regularizer import Regularizer

if TYPE_CHECKING:
    from objectives.training.state import Run


@dataclass(frozen=True)
class Pace:
    """When the knobs move. every: training steps for each step of theirs, unless the method's own.
    warmup: the share of the steps before the first; settle: after the last. path: how often a
    knob can travel its range. curvature: which second derivatives of
    a network are used.
    """

    every: int | None = None
    warmup: float = 0.1
    settle: float = 0.1
    path: float = 2.0
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"


class OnlineTuning:
    """Tunes the knobs of `domains` within a run, from the values of `start`, by a method that
    estimates the hypergradient at the weights of the moment. The weights' own training is not
    touched: but for the knobs, a run is what it would have been."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        regularizers: Mapping[str, Regularizer],
        start: Point,
        method: Method,
        pace: Pace,
    ) -> None:
        self._domains, self._start, self._method, self._pace = dict(domains), start, method, pace
        self._stepped = frozenset(
            knob for r in regularizers.values() if r.optimizer is not None for knob in r.knobs
        )
        self._state: Mapping[str, Tensor] = {}
        self._size = self._residual = float("nan")
        self._resting = False

    def begin(self, run: Run) -> None:
        self._coordinates = Coordinates(self._domains, self._start, run.device)
        self.knobsteps = Knobs.at(self._coordinates.of(self._start))
        self._view = TrainingView(
            run, self._coordinates, self._stepped, self._pace.curvature == "gauss_newton"
        )
        self._every = self._pace.every or self._method.every
        steps = int(run.training.steps * max(0.0, 1 - self._pace.warmup - self._pace.settle))
        self._moves = steps // self._every
        self._rate = rate_of(self._pace.path, self._moves)

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        return self.point(progress)

    def after_step(self, run: Run, progress: float) -> None:
        self._view.trained()
        if self._resting:
            return
        t = self.knobsteps.t
        due = progress >= self._pace.warmup and run.step % self._every == 0
        if due or self._method.follows:
            with beside(run):
                self._view.draw()
                self._state = self._method.learn(self._view, t, self._state)
                if due:
                    self._follow(self._method.gradient(self._view, t, self._state))
        self._resting = progress >= 1 - self._pace.settle

    def _follow(self, found: Found) -> None:
        self._state = found.lasting
        self._size, self._residual = float(found.gradient.norm()), found.residual
        self.knobsteps = stepped(
            self.knobsteps, found.gradient, self._rate, self._coordinates.spans
        )

    def point(self, progress: float) -> Point:
        if not hasattr(self, "knobsteps"):
            return dict(self._start)
        return self._coordinates.point(self.knobsteps.t)

    def moving(self, progress: float) -> bool:
        return not self._resting

    def report(self) -> dict[str, float]:
        found = {"hypergradient/norm": self._size, "hypergradient/linear_residual": self._residual}
        if self.knobsteps.refused:
            found["hypergradient/refused"] = float(self.knobsteps.refused)
        return found

    def notes(self) -> list[str]:
        """What is wrong, in plain words."""
        if self._moves:
            return []
        return [f"no knob moves: the run is shorter than {self._every} steps (every)"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "knobs": dict(vars(self.knobsteps)),
            "method": dict(self._state),
            "sum": self._view.sum,
            "size": self._size,
            "residual": self._residual,
            "resting": self._resting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self._coordinates.spans.device
        self.knobsteps = Knobs(**_placed(state["knobs"], device))
        if len(self.knobsteps.t) != len(self._coordinates):
            raise ValueError("it tunes other knobs")
        self._state = _placed(state["method"], device)
        self._view.sum = state["sum"]
        self._size, self._residual = state["size"], state["residual"]
        self._resting = state["resting"]


def _placed(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()}
