"""What of a study is left to Ray Tune's own schedulers: populations, asha, hyperband."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo import engines, pruners, samplers, tuning
from hpo.errors import HpoError
from hpo.spec import StudySpec

if TYPE_CHECKING:
    from hpo.problem import Problem
    from hpo.samplers._population import Evolution


@dataclass(frozen=True)
class Scheduling:
    """A scheduler's class and settings. `pauses`: it lets trials wait, so that all are known to it
    from the beginning; `evolution`: how it changes the knobs of a population."""

    kind: type
    settings: Mapping[str, Any]
    pauses: bool = False
    evolution: Evolution | None = None


def scheduling(problem: Problem) -> Scheduling | None:
    """What Ray is to schedule with; None if the study decides everything by itself."""
    spec, training = problem.spec, problem.training
    sampler, options = tuning.method(problem)
    if sampler.evolve is not None and training is not None:
        coordinates = problem.space.coordinates()
        request = samplers.Request(coordinates, options, spec.budget.trials)
        found = sampler.evolve(request, training.steps)
        return Scheduling(found.scheduler, found.settings, True, found)
    pruner = pruners.of_ray(spec.prune)
    if pruner is None:
        return None
    stops = [1, None] if training is None else training.evaluation_steps()
    kind, settings = pruner.scheduler(pruners.Steps(stops[0] or 1, stops[-1]))
    return Scheduling(kind, settings, pruner.pauses)


def check(problem: Problem) -> None:
    """Raises HpoError if a study needs a scheduler of Ray's and cannot have it."""
    spec = problem.spec
    if _evolves(spec):
        _check_engine(spec, "sampler", spec.sampler, "changes the knobs of trials that run")
        _check_population(problem)
    pruner = pruners.of_ray(spec.prune)
    if pruner is None:
        return
    name = pruners.name_of(spec.prune)
    _check_engine(spec, "prune", name, "is a scheduler of Ray Tune")
    if pruner.pauses and not problem.is_task:
        raise HpoError(
            f"prune {name} lets trials wait for each other, but objective {spec.objective} has no"
            " checkpoints to go on from",
            hint="give a task (methods model, batches, loss; see hpo init), or use prune: asha",
            code="not-a-task",
            path=("prune",),
        )


def _evolves(spec: StudySpec) -> bool:
    return samplers.load(spec.sampler).evolve is not None


def _check_engine(spec: StudySpec, key: str, name: str, what: str) -> None:
    if engines.load(spec.engine).schedules:
        return
    able = engines.able("schedules")
    raise HpoError(
        f"{key} {name} {what}, which engine {spec.engine} cannot have",
        hint=f"add --engine {able}  (engine: {able} in the study file)",
        code="wrong-engine",
        found=name,
        path=(key,),
    )


def _check_population(problem: Problem) -> None:
    spec, (_, options) = problem.spec, tuning.method(problem)
    tuning.check_proposing(spec, options.propose, "random or qmc")
    if not problem.is_task:
        kind = "bilevel problem" if problem.is_bilevel else "function that trains on its own"
        raise HpoError(
            f"sampler {spec.sampler} goes on from checkpoints of training, but objective"
            f" {spec.objective} is a {kind}",
            hint="give a task (methods model, batches, loss; see hpo init), or use sampler tpe",
            code="not-a-task",
            path=("sampler",),
        )
    if spec.prune != "none":
        raise HpoError(
            f"sampler {spec.sampler} replaces its worst members itself; prune would end them",
            hint="leave prune out, or use sampler tpe",
            code="refused",
            path=("prune",),
        )
    tuning.check_uncurved(problem, "changes")
