"""A black-box objective: a user's function or generator function becomes Measurements."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator, Mapping
from typing import Any

from hpo.errors import HpoError
from hpo.problem import Problem
from objectives.training.measurement import Measurement
from search_spaces.schedule import Schedule


class _Knobs:
    """`h(progress)` of a black-box objective; remembers how far the objective says it is."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.progress: float | None = None

    def __call__(self, progress: float = 0.0) -> dict[str, Any]:
        self.progress = float(progress)
        return self.schedule.at(self.progress)


def run_black_box(problem: Problem, schedule: Schedule, seed: int) -> Generator[Measurement]:
    """The measurements of a function of (h, seed) that yields metrics or returns them."""
    knobs = _Knobs(schedule)
    returned = problem.target(knobs, seed)
    if not inspect.isgenerator(returned):
        metrics = _metrics(returned, problem, "returned")
        yield Measurement(1, 1.0, metrics, schedule.at(knobs.progress or 0.0), {})
        return
    step, given = 0, False
    with _closing(returned) as reports:
        for report in reports:
            metrics = _metrics(report, problem, "yielded")
            given = True
            step = int(metrics.pop("step", step + 1))
            progress = metrics.pop("progress", knobs.progress)
            at = min(max(float(progress or 0.0), 0.0), 1.0)
            yield Measurement(step, at, metrics, schedule.at(at), {})
    if not given:
        raise HpoError(
            f"objective {problem.spec.objective} ended without yielding anything",
            hint=f'yield {{"{problem.spec.metric}": …}} at least once, or return a number',
            code="no-measurement",
        )


class _closing:
    """Closes a user's generator on exit; one that yields after being closed is only noted."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __enter__(self) -> Any:
        return self.generator

    def __exit__(self, *_: object) -> None:
        try:
            self.generator.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                raise
            print("note: the objective yielded after it was closed; ignored", file=sys.stderr)


def _metrics(report: Any, problem: Problem, verb: str) -> dict[str, float]:
    metric, name = problem.spec.metric, problem.spec.objective
    if isinstance(report, Mapping):
        metrics = {str(key): _number(value, str(key), name) for key, value in report.items()}
    elif report is None:
        raise HpoError(
            f"objective {name} {verb} nothing",
            hint=f'return a number, or yield {{"{metric}": …}}',
            code="no-measurement",
        )
    else:
        metrics = {metric: _number(report, metric, name)}
    require_metric(metrics, problem, verb)
    return metrics


def require_metric(metrics: Mapping[str, float], problem: Problem, verb: str) -> None:
    """Raises HpoError if the metric that the study minimizes or maximizes is not there."""
    metric = problem.spec.metric
    if metric in metrics:
        return
    given = ", ".join(sorted(set(metrics) - {"step", "progress"})) or "no metric"
    raise HpoError(
        f"objective {problem.spec.objective} {verb} {given}, not {metric}, which the study"
        f" {_goal(problem)}s",
        hint=f"set {_goal(problem)}: to a metric the objective gives",
        code="no-metric",
        found=given,
    )


def _goal(problem: Problem) -> str:
    return problem.spec.direction


def _number(value: Any, key: str, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise HpoError(
            f"objective {name} gave {key} = {str(value)[:60]!r}, which is not a number",
            hint="metrics are numbers, or things float() takes",
            code="not-a-number",
        ) from None
