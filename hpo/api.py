"""The Python interface: a study as one call, and a trial inside a user's own Optuna script."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.folder import DEFAULT_MLRUNS
from hpo.launch import launch
from hpo.preparation import Launch, spec_from_keywords
from hpo.result import Result
from hpo.spec import StudySpec

if TYPE_CHECKING:
    import optuna
    import ray.tune

    from hpo.problem import Problem


def run(
    objective: str | Callable[..., Any],
    *,
    mlruns: str | Path = DEFAULT_MLRUNS,
    resume: bool = False,
    quiet: bool = False,
    **spec: Any,
) -> Result:
    """Runs a study and returns its result.

    objective   a built-in name, `package.module:attr`, `path/to/file.py:attr`, or a function or
                class of an importable module
    mlruns      the folder that holds studies and the MLflow database
    resume      continue the study of this name instead of refusing
    spec        the keys of a study file (space, sampler, seed, workers, …); trials, steps, time and
                plateau may be given flat. `workers=0` runs trials in this process

    Raises HpoError: a mistake in the spec (nothing was started), a name that is taken, a study
    without one successful trial. Ctrl-C raises hpo.errors.Interrupted once running trials have
    ended; `resume=True` continues the study. A script that passes a function of its own has the
    call under `if __name__ == "__main__":`, because workers import the script.

    >>> result = hpo.run("digits", space="regularization", sampler="tpe", trials=20)
    >>> result.best.value, result.schedule.at(0.5), result.trials
    """
    from hpo import console as consoles
    from hpo.problem import refuse_while_loading

    refuse_while_loading("hpo.run")
    described = spec_from_keywords(objective=reference(objective), **spec)
    sink = consoles.Console(
        consoles.style(as_json=False, quiet=quiet), described.metric, described.direction
    )
    try:
        return launch(described, Launch(Path(mlruns), resume, (sink,), sink.line))
    finally:
        sink.close()


def reference(objective: str | Callable[..., Any]) -> str:
    """How a worker process finds an objective given as an object: `module:name` or `file.py:name`.

    Raises HpoError for one that no other process can find: a lambda, a function made inside
    another, or one typed into a notebook.
    """
    if isinstance(objective, str):
        return objective
    name = getattr(objective, "__qualname__", "")
    module = getattr(objective, "__module__", "")
    if not name or "<" in name or not module:
        raise HpoError(
            f"objective {objective!r} cannot be found by name from a worker process",
            hint="define it at the top of a module or file, and pass it or its path",
            code="objective-not-importable",
            path=("objective",),
        )
    if module != "__main__":
        return f"{module}:{name}"
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m package.module
        return f"{main.__spec__.name}:{name}"
    file = getattr(main, "__file__", None)
    if file is None or not Path(file).is_file():
        raise HpoError(
            f"objective {name} lives in an interactive session; a worker process cannot see it",
            hint=f"save it in a file, for example my_task.py, and pass 'my_task.py:{name}'",
            code="objective-not-importable",
            path=("objective",),
        )
    return f"{Path(file).absolute()}:{name}"


def objective(
    objective: str | Callable[..., Any], *, report: bool = True, **spec: Any
) -> Callable[[optuna.Trial], float]:
    """An Optuna objective: `study.optimize(hpo.objective("digits", space="l2"), n_trials=50)`.

    Suggests the knobs of the space, trains once under them, reports each measurement to the trial
    (so that the study's pruner works) and returns the metric at the best step, or nan as soon as it
    is not finite. `objective` is given as to `run`; `spec` holds the keys of a study file that
    describe the problem: objective_options, space, fixed, training, steps, seed, seeds, minimize
    or maximize.
    """
    from hpo import problem as problems

    described = spec_from_keywords(objective=reference(objective), **spec)
    problem = problems.load(described)

    def evaluate(trial: optuna.Trial) -> float:
        return _evaluate(problem, trial, report)

    return evaluate


def trainable(
    objective: str | Callable[..., Any] | StudySpec, **spec: Any
) -> type[ray.tune.Trainable]:
    """A Trainable for a Ray script: `tune.Tuner(hpo.trainable("digits", space="l2"), ...)`.

    Its config holds values of the space's knobs, the others start where they do; each result has
    the metrics of a measurement, `step` and `progress`. Checkpoints of a task can be saved and
    restored, also under other knobs, as populations do. What to train is given as to `objective`,
    or as the spec of a study. Raises HpoError for a mistake in it, or if Ray is not installed.
    """
    from hpo import engines
    from hpo import problem as problems
    from hpo import reference as references

    engines.require("ray")
    described = objective
    if not isinstance(described, StudySpec):
        described = spec_from_keywords(objective=reference(described), **spec)
    absolute = references.absolute(described.objective)
    described = described.model_copy(update={"objective": absolute})
    problems.load(described)
    from hpo.engines._ray.ownscript import made

    return made(described.plain())


def _evaluate(problem: Problem, trial: optuna.Trial, report: bool) -> float:
    import optuna

    from hpo.ledger import better
    from hpo.running import score
    from hpo.samplers._suggest import suggest
    from hpo.trial import finite, follow

    metric = problem.spec.metric
    values: Mapping[str, Any] = suggest(trial, problem.space.coordinates())
    schedule = problem.schedule(values)
    best = told = None
    with closing(follow(problem, schedule, problem.spec.seed)) as run:
        for measurement in run:
            value = measurement.metrics[metric]
            if not finite(measurement, metric):
                return float("nan")  # Optuna counts the trial as failed
            reached = score(measurement, metric)
            if better(reached, best, problem.spec.direction):
                best, told = reached, value
            if report:
                trial.report(value, measurement.step)
                if trial.should_prune():
                    raise optuna.TrialPruned
    return float("nan") if told is None else told
