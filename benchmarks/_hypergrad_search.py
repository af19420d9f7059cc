"""MAID beside searches between runs, at equal units of work, on problems with 20 and 640 knobs.

A unit is an inner gradient or a Hessian-vector product. A trial of a search is a point whose inner
problem is solved by the code that MAID uses. Searches are favoured: a hundredth of the first
gradient may be left (F is then right to about 1 %), the solver is given the diagonal of the Hessian
to begin with, and it begins where the last trial ended or at zero, whichever is lower. All begin at
the same point, and searches see every strength as a number of its own. They have their defaults,
but CMA-ES with 640 knobs a diagonal covariance: a full one takes ten seconds and more a trial.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import optuna
from _hypergrad_chains import descend
from _hypergrad_problems import Halves, Weights
from _report import Report, Row, table
from optuna.trial import TrialState
from torch import Tensor

from hpo import samplers
from hpo.bilevel.implicit.evaluation import Rules, Warm, evaluate
from hpo.bilevel.implicit.lower import lbfgs
from hpo.bilevel.implicit.problem import Bilevel
from hpo.samplers._suggest import suggest
from search_spaces.domains import Float
from search_spaces.space import SearchSpace

RIVALS = ("tpe", "cmaes", "gp")
PROBLEMS = {"20 knobs": Halves, "640 knobs": Weights}
MARKS = (50, 100, 200, 400, 800, 1600, 2000)
TOLERANCE = 1e-2  # of the first inner gradient, left by a trial of a search
EXACT = 1e-6  # the same, where a true value is wanted
MOST_CPU = 60.0  # seconds of a search: a Gaussian process of 640 numbers takes seconds a trial

_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE)

Trace = list[dict[str, float]]


class Run(NamedTuple):
    knobs: str
    arm: str
    seed: int
    rows: Trace


def search(seeds: int, quick: bool) -> Report:
    """True F of the best point so far at checkpoints of units, medians over draws of the rows, and
    how often MAID is ahead; the loss on rows that none of them sees beside it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    marks = MARKS[:2] if quick else MARKS
    runs = []
    for seed in range(1 if quick else seeds):
        for knobs, make in PROBLEMS.items():
            for arm in ("maid", *RIVALS):
                found = Run(knobs, arm, seed, _trace(make(data_seed=seed), arm, seed, marks[-1]))
                runs.append(found)
                shown = " ".join(f"{_at(found, 'true', mark):.4f}" for mark in marks)
                print(f"seed {seed}, {knobs}, {arm:6} {shown}", file=sys.stderr, flush=True)
    tables, rows = [], []
    for knobs in PROBLEMS:
        here = [run for run in runs if run.knobs == knobs]
        for key in ("true", "holdout"):
            tables.append(_table(here, key, marks))
        tables.append(_costs(here))
        rows += _verdicts(here, knobs, marks)
    return Report(tables, rows, {"marks": marks}, [run._asdict() for run in runs])


# -- one run --------------------------------------------------------------------------------------


def _trace(problem: Weights, arm: str, seed: int, units: int) -> Trace:
    """The points that were better than all before, with units and CPU seconds until then."""
    if arm == "maid":
        return descend(problem, units, _judged)
    return _searched(problem, arm, seed, units)


def _judged(problem: Weights, point: Any, t: Tensor, x: Tensor) -> dict[str, float]:
    """F by a solve that is nearly exact and its adjoint correction, and the loss on the rows for
    selection, which no method here looks at."""
    flat = Bilevel(problem, point)
    slope = EXACT * float(flat.gradient(flat.start, t)[1].norm())
    at = evaluate(flat, t, Warm(x), Rules(relative=1e-3), slope=slope)
    holdout = problem.selection_loss(flat.params(at.x), flat.knobs(t))
    return {"true": at.value, "holdout": float(holdout)}


def _searched(problem: Weights, name: str, seed: int, units: int) -> Trace:
    """What a search between runs finds, asked and told by Optuna in memory; the last row is for
    where it ended."""
    ask = _Asking(problem.space["l2"], name, seed)
    flat = Bilevel(problem, SearchSpace(problem.space).start)
    x, best, away, rows = flat.start, math.inf, 0.0, Trace()
    begun = time.process_time()
    while flat.work.units < units and time.process_time() - begun - away < MOST_CPU:
        trial, strengths = ask()
        t = flat.coordinates.of({"l2": strengths})
        x = _solved(flat, t, x)
        value = flat.outer_value(x, t)
        ask.study.tell(trial, value)
        left = time.process_time()
        spent = {"units": flat.work.units, "cpu": left - begun - away, "trials": trial.number + 1}
        if value < best:
            best = value
            rows.append(spent | _judged(problem, {"l2": strengths}, t, x))
        away += time.process_time() - left
    return [*rows, {**rows[-1], **spent}]


def _solved(flat: Bilevel, t: Tensor, x: Tensor) -> Tensor:
    problem: Any = flat.problem
    root = problem.curvatures(flat.knobs(t)).rsqrt()
    slope = TOLERANCE * float(flat.gradient(flat.start, t)[1].norm())
    flat.work.gradients -= 1  # it does not depend on t: one for all trials would do
    x = min((flat.start, x), key=lambda one: float(flat.inner(one, t)))
    stretched: Any = _Stretched(flat, root)
    found = lbfgs.minimize(
        stretched, t, x / root, slope, measure=lambda one: float((one / root).norm())
    )
    return root * found.x


class _Stretched:
    """The inner loss as a function of x / root: as well conditioned as a diagonal can make it."""

    def __init__(self, flat: Bilevel, root: Tensor) -> None:
        self._flat, self._root = flat, root

    def gradient(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        each, slope = self._flat.gradient(self._root * z, t)
        return each, self._root * slope


class _Asking:
    """A study in memory that has every strength as a parameter; its first trial is the start."""

    def __init__(self, strengths: Any, name: str, seed: int) -> None:
        one = Float(strengths.low, strengths.high, "log", start=strengths.start)
        self._knobs = {f"l2[{k}]": one for k in range(strengths.size)}
        self._sampler, self._seed = samplers.load(name), seed
        chosen = {"separable": True} if name == "cmaes" and len(self._knobs) > 100 else {}
        options = samplers.parse_options(self._sampler, chosen, name)
        self._request = samplers.Request(self._knobs, options)
        self.study = optuna.create_study()
        self.study.enqueue_trial({key: one.start_value() for key, one in self._knobs.items()})

    def __call__(self) -> tuple[optuna.Trial, tuple[float, ...]]:
        number = len(self.study.get_trials(deepcopy=False, states=_BEGUN))
        self.study.sampler = samplers.at_ask(
            self._sampler, study_seed=self._seed, number=number, request=self._request
        )
        trial = self.study.ask()
        return trial, tuple(suggest(trial, self._knobs).values())


# -- what is told ---------------------------------------------------------------------------------


def _at(run: Run, key: str, units: int) -> float:
    """That number of the point with the lowest true F within so many units."""
    seen = [row for row in run.rows if row["units"] <= units]
    return min(seen, key=lambda row: row["true"])[key] if seen else math.inf


def _table(runs: Sequence[Run], key: str, marks: Sequence[int]) -> str:
    """Medians over seeds, and for a search in how many of them MAID is ahead."""
    maid = [run for run in runs if run.arm == "maid"]
    lines = []
    for arm in ("maid", *RIVALS):
        here = [run for run in runs if run.arm == arm]
        cells = []
        for mark in marks:
            found = [_at(run, key, mark) for run in here]
            text = f"{statistics.median(found):.4f}"
            if arm != "maid":
                ahead = sum(_at(m, key, mark) < f for m, f in zip(maid, found, strict=True))
                text += f" ({ahead})"
            cells.append(text)
        lines.append([arm, *cells])
    what = "F" if key == "true" else "hold-out loss"
    name = f"{runs[0].knobs}: {what}, median (seeds of {len(maid)} in which MAID is ahead)"
    return table([name, *(f"{mark} units" for mark in marks)], lines)


def _costs(runs: Sequence[Run]) -> str:
    lines = []
    for arm in ("maid", *RIVALS):
        last = [run.rows[-1] for run in runs if run.arm == arm]
        counts = [row["trials"] for row in last if "trials" in row] or [math.nan]
        cpu, units = ([row[key] for row in last] for key in ("cpu", "units"))
        capped = sum(row["cpu"] >= MOST_CPU for row in last)
        lines.append(
            [
                arm,
                f"{statistics.median(cpu):.1f}",
                f"{statistics.median(units):.0f}",
                "" if arm == "maid" else f"{statistics.median(counts):.0f}",
                f"{capped}" if arm != "maid" else "",
            ]
        )
    header = [f"{runs[0].knobs}, medians", "CPU s", "units", "trials"]
    return table([*header, f"runs ended at {MOST_CPU:.0f} CPU s"], lines)


def _verdicts(runs: Sequence[Run], knobs: str, marks: Sequence[int]) -> list[Row]:
    seeds = sorted({run.seed for run in runs})
    found = {(run.arm, run.seed): run for run in runs}
    rows = []
    for key, what, target in (("true", "F", f"{len(seeds)}"), ("holdout", "hold-out loss", "")):
        ahead = sum(
            _at(found["maid", seed], key, mark) < _at(found[arm, seed], key, mark)
            for seed in seeds
            for arm in RIVALS
            for mark in marks
        )
        always = sum(
            all(
                _at(found["maid", seed], key, mark) < _at(found[arm, seed], key, mark)
                for arm in RIVALS
                for mark in marks
            )
            for seed in seeds
        )
        name = f"seeds in which MAID has the lower {what} at every checkpoint, {knobs}"
        met = always == len(seeds) if target else None
        share = (
            f"{always} of {len(seeds)} ({ahead} of {len(seeds) * len(RIVALS) * len(marks)} pairs)"
        )
        rows.append(Row(name, share, target, met))
    return rows
