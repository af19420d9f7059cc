"""A bilevel problem as a trial: Measurements of one point, or of a chain of points downhill."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpo.bilevel.implicit import pictures
from hpo.bilevel.implicit.evaluation import Evaluation, Rules, Warm, evaluate
from hpo.bilevel.implicit.problem import Bilevel, Work
from hpo.bilevel.implicit.way import Way, packed, unpacked
from objectives.training import checkpoint as checkpoints
from objectives.training.bilevel import BilevelProblem
from objectives.training.measurement import Measurement
from search_spaces.domains import Domain, Point
from search_spaces.errors import HpoError

_TOLERANCE = 1e-6  # of the first inner gradient, where a point is all there is to a trial


def solved(
    problem: BilevelProblem, point: Point, seed: int, folder: Path | None = None
) -> Generator[Measurement]:
    """The one measurement of a point at which the knobs are held; its views go to the folder.

    Metrics: val_loss (the outer loss at the inner optimum), train_loss, holdout_loss where the
    problem has a selection_loss, and its own.
    """
    begun = time.perf_counter()
    flat = Bilevel(problem, point, {}, seed)
    t = flat.coordinates.of(point)
    slope = _TOLERANCE * float(flat.gradient(flat.start, t)[1].norm())
    at = evaluate(flat, t, Warm(flat.start), Rules(relative=1e-3), slope=slope)
    measurement = _measurement(flat, at, 1, 1.0, time.perf_counter() - begun)
    _show(flat, at, folder)
    yield measurement


def descended(
    problem: BilevelProblem,
    tunable: Mapping[str, Domain],
    point: Point,
    seed: int,
    way: Way,
    patience: int | None,
    checkpoint: Path | None,
) -> Generator[Measurement]:
    """The measurements of a way downhill from a point: the first, what it finds worth one, and the
    last point once more, more exactly.

    val_loss is the value and its error together: what the outer loss is at most, so far as is
    known. patience: where the problem has a selection_loss, the chain ends after so many steps
    without a better one: hundreds of knobs can fit the rows of the outer loss. checkpoint: a file
    from which a killed chain goes on, first giving its measurements again; it then equals an
    uninterrupted one bit for bit.
    """
    trial = _Trial(Bilevel(problem, point, tunable, seed), point, seed, way, patience, checkpoint)
    yield from trial.history
    while not trial.done:
        yield trial.advance()


class _Trial:
    """A chain between measurements."""

    def __init__(
        self,
        flat: Bilevel,
        point: Point,
        seed: int,
        way: Way,
        patience: int | None,
        checkpoint: Path | None,
    ) -> None:
        self._flat, self._way, self._path = flat, way, checkpoint
        self._patience = patience
        self._start = flat.coordinates.of(point)
        self._identity = {
            "objective": getattr(flat.problem, "name", type(flat.problem).__name__),
            "seed": seed,
            "knobs": [*flat.coordinates.slices],
            "method": repr(way.how),
            "start": self._start.tolist(),
        }
        self._saver = checkpoints.Saver(checkpoint, None)
        self._state: Any = None
        self._seconds = 0.0
        self.history: list[Measurement] = []
        self.done = False
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoints.load(checkpoint))

    def advance(self) -> Measurement:
        begun = time.perf_counter()
        if self._state is None:
            state = self._way.begin(self._flat, self._start, self._way.how)
        else:
            state = self._way.advance(self._flat, self._state, self._way.how)
        at = state.here
        if not state.ended and self._exhausted():
            state = replace(state, ended="the selection loss has stopped falling")
        if state.ended:
            at, self.done = self._way.certified(self._flat, state, self._way.how), True
        self._state = state
        self._seconds += time.perf_counter() - begun
        step = state.iteration + 1 + self.done
        progress = 1.0 if self.done else state.iteration / (self._way.how.iterations + 1)
        measurement = _measurement(self._flat, at, step, progress, self._seconds)
        self.history.append(measurement)
        if self.done and self._path is not None:
            _show(self._flat, at, self._path.parent)
        if self._saver.due(last=self.done):
            self._saver.save(self._content())
        return measurement

    def _exhausted(self) -> bool:
        losses = [m.metrics["holdout_loss"] for m in self.history if "holdout_loss" in m.metrics]
        if self._patience is None:
            return False
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self._patience

    def _content(self) -> dict[str, Any]:
        return {
            "trial": self._identity,
            "state": packed(self._state),
            "work": dict(vars(self._flat.work)),
            "seconds": self._seconds,
            "history": [measurement.to_json() for measurement in self.history],
            "done": self.done,
        }

    def _resume(self, content: Mapping[str, Any]) -> None:
        assert self._path is not None
        try:
            checkpoints.require_same(self._path, content["trial"], self._identity)
            self._state = unpacked(self._way.state, content["state"], self._start.device)
            here = self._state.here
            self._flat.work = Work(**content["work"])
            self._seconds = content["seconds"]
            self.history = [Measurement.from_json(data) for data in content["history"]]
            self.done = content["done"]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise checkpoints.unfit(self._path, error) from error
        if len(here.t) != len(self._start) or len(here.x) != len(self._flat):
            raise checkpoints.unfit(self._path, ValueError("its problem has another size"))


def _measurement(
    flat: Bilevel, at: Evaluation, step: int, progress: float, seconds: float
) -> Measurement:
    params, h = flat.params(at.x), flat.knobs(at.t)
    with torch.no_grad():
        metrics = {
            "train_loss": float(flat.inner(at.x, at.t)),
            "val_loss": at.value + at.error,
            **_more(flat.problem, params, h),
        }
    metrics |= {
        "hypergradient/norm": float(at.gradient.norm()),
        "hypergradient/error": at.error,
        "hypergradient/slope": at.slope,
        "hypergradient/linear_residual": at.linear_residual,
    }
    work = flat.work
    cost = {
        "gradients": float(work.gradients),
        "products": float(work.products),
        "crosses": float(work.crosses),
        "seconds": seconds,
    }
    notes: tuple[str, ...] = ()
    if at.damping > 0:
        notes = ("the inner problem has negative curvature where it was solved: its Hessian was"
                 f" damped by {at.damping:.2g}",)  # fmt: skip
    point = flat.coordinates.point(at.t)
    return Measurement(step, progress, metrics, point, cost, {}, notes)


def _show(flat: Bilevel, at: Evaluation, folder: Path | None) -> None:
    if folder is not None:
        pictures.save(flat.problem, flat.params(at.x), flat.knobs(at.t), folder / pictures.FOLDER)


def _more(problem: BilevelProblem, params: Any, h: Mapping[str, Any]) -> dict[str, float]:
    """The loss for selection and the problem's own numbers, where it has them."""
    found: dict[str, float] = {}
    selection = getattr(problem, "selection_loss", None)
    if callable(selection):
        found["holdout_loss"] = float(selection(params, h))
    own = getattr(problem, "final_metric", None)
    if callable(own):
        given = own(params, h)
        if not isinstance(given, Mapping):
            raise HpoError(
                f"final_metric gave {type(given).__name__}",
                hint='numbers by name, for example {"psnr": 27.5}',
                code="bad-metric",
            )
        found |= {str(name): float(value) for name, value in given.items()}
    return found
