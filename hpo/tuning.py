"""The in-run half of a study's sampler: what it can tune, and the tuner of one trial."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import samplers
from hpo.errors import HpoError
from hpo.problem import Problem
from hpo.samplers import Sampler, Start
from hpo.tunable import why_not
from search_spaces.domains import Domain, Float
from search_spaces.space import holds

if TYPE_CHECKING:
    from hpo.spec import StudySpec
    from objectives.training.measurement import Measurement
    from objectives.training.tuner import Tuner
    from search_spaces.domains import Point, Scalar
    from search_spaces.schedule import Schedule


def descended(
    problem: Problem, schedule: Schedule, seed: int, checkpoint: Path | None
) -> Generator[Measurement]:
    """The measurements of a trial that goes downhill from where `schedule` begins."""
    sampler, options = method(problem)
    assert sampler.descend is not None
    point = schedule.at(0.0)
    start = Start(tunable(problem, point), {}, whole_point(problem, point))
    return sampler.descend(problem.target, start, seed, options, checkpoint)


def whole_point(problem: Problem, point: Point) -> Point:
    """A point with every knob of a bilevel problem: those the study leaves out, at their start."""
    own = problem.target.space
    return {**{name: domain.start_value() for name, domain in own.items()}, **point}


def tuner(problem: Problem, schedule: Schedule) -> Tuner:
    """The tuner of a trial that begins where `schedule` does."""
    sampler, options = method(problem)
    assert sampler.tune is not None
    point = schedule.at(0.0)
    start = Start(tunable(problem, point), problem.regularizers, point)
    return sampler.tune(start, options)


def method(problem: Problem) -> tuple[Sampler, Any]:
    """The study's sampler and its options."""
    spec = problem.spec
    sampler = samplers.load(spec.sampler)
    return sampler, samplers.parse_options(sampler, spec.sampler_options, spec.sampler)


def tunable(problem: Problem, point: Point) -> dict[str, Domain]:
    """The searched knobs that act on the loss and that their conditions switch on: those of
    regularizers that have a place in the model, and the weights of a task's auxiliary losses."""
    if problem.is_bilevel:
        return {
            name: domain
            for name, domain in problem.space.items()
            if name not in problem.idle and _differentiable(domain, point)
        }
    scalars = _scalars(point)
    used = {knob for record in problem.regularizers.values() for knob in record.knobs}
    if hasattr(problem.target, "auxiliary_losses"):
        used |= set(getattr(problem.target, "space", None) or ())
    used -= {*problem.idle, *stiff(problem)}
    return {
        name: domain
        for name, domain in problem.space.items()
        if name in used and (not domain.when or holds(domain, scalars))
    }


def stiff(problem: Problem) -> dict[str, str]:
    """The searched knobs that the study's sampler cannot bend in a network's training, and why."""
    sampler, _ = method(problem)
    found = {}
    for name, domain in problem.space.items():
        users = [record for record in problem.regularizers.values() if name in record.knobs]
        reasons = [why_not(sampler, record, domain, name) for record in users]
        reason = next(filter(None, reasons or [why_not(sampler, None, domain)]), "")
        if reason:
            found[name] = reason
    return found


def _scalars(point: Point) -> dict[str, Scalar]:
    return {name: value for name, value in point.items() if not isinstance(value, tuple)}


def _differentiable(domain: Domain, point: Point) -> bool:
    return isinstance(domain, Float) and (not domain.when or holds(domain, _scalars(point)))


def check(problem: Problem) -> None:
    """Raises HpoError if the study's sampler tunes within runs and cannot do so here."""
    spec = problem.spec
    sampler, options = method(problem)
    if not sampler.in_run:
        return
    check_proposing(spec, options.propose, "tpe or random")
    _check_target(problem, sampler)
    if spec.seeds > 1:
        raise HpoError(
            f"seeds is {spec.seeds}: sampler {spec.sampler} finds a path of its own for each seed,"
            " and these cannot be averaged",
            hint="leave seeds out; hpo schedule saves the path, and more trials give more of them",
            code="refused",
            found=spec.seeds,
            path=("seeds",),
        )
    _check_space(problem)


def check_proposing(spec: StudySpec, propose: str, usual: str) -> None:
    """Raises HpoError if the sampler that should work between runs moves knobs within them."""
    sampler = samplers.load(propose)
    if sampler.in_run or sampler.evolve is not None:
        raise HpoError(
            f"sampler {spec.sampler}: propose is {propose}, which tunes within runs itself",
            hint=f"propose is the sampler that works between runs, for example {usual}",
            code="refused",
            found=propose,
            path=("sampler_options", "propose"),
        )


def check_uncurved(problem: Problem, moves: str) -> None:
    """Raises HpoError if a knob that the sampler `moves` (bends, say) within a run has a schedule
    of its own."""
    curved = [name for name, domain in problem.space.items() if domain.schedule is not None]
    if curved:
        raise HpoError(
            f"knob {curved[0]} has a schedule to be searched between runs, but sampler"
            f" {problem.spec.sampler} {moves} it within a run",
            hint="leave out its schedule:",
            code="refused",
            found=curved[0],
            path=("space", curved[0]),
        )


def _check_target(problem: Problem, sampler: Sampler) -> None:
    """Raises HpoError if the objective is not of the kind that the sampler bends knobs in."""
    spec = problem.spec
    if problem.is_bilevel:
        if sampler.descend is None:
            raise HpoError(
                f"sampler {spec.sampler} tunes while a model trains, but objective"
                f" {spec.objective} is a bilevel problem, whose inner loss is solved as a whole",
                hint="use sampler maid, hoag or hypergrad",
                code="not-a-task",
                path=("sampler",),
            )
        if not sampler.proximal and callable(getattr(problem.target, "prox", None)):
            raise HpoError(
                f"sampler {spec.sampler}: objective {spec.objective} has a prox, which stochastic"
                " training does not know",
                hint="use sampler maid or hoag",
                code="refused",
                path=("sampler",),
            )
        return
    if sampler.tune is None:
        raise HpoError(
            f"sampler {spec.sampler} needs an inner and an outer loss, but objective"
            f" {spec.objective} is a {'task' if problem.is_task else 'function'}",
            hint="give a bilevel problem (init_params, inner_loss, outer_loss), or use sampler"
            f" {'stn' if problem.is_task else 'tpe'}",
            code="not-bilevel",
            path=("sampler",),
        )
    if not problem.is_task:
        raise HpoError(
            f"sampler {spec.sampler} tunes while a model trains, but objective {spec.objective}"
            " is a function that trains on its own",
            hint="give a task (methods model, batches, loss; see hpo init), or use sampler tpe",
            code="not-a-task",
            path=("sampler",),
        )


def _check_space(problem: Problem) -> None:
    """Raises HpoError if the space has nothing that can be tuned within a run."""
    spec = problem.spec
    check_uncurved(problem, "bends")
    if not tunable(problem, problem.space.start):
        hint = "it tunes what regularizers use (hpo list regularizers), sampler tpe other knobs"
        if problem.is_bilevel:
            hint = "it moves knobs with real values; for choices and whole numbers use sampler tpe"
        elif (reasons := stiff(problem)).keys() >= {*problem.space}:
            told = [f"{name} {reason}" for name, reason in reasons.items()]
            hint = "\n".join([*told, "sampler tpe tunes every knob (hpo list regularizers)"])
        elif problem.idle & {*problem.space}:
            hint = (
                "dropout and activation noise act where a model has nn.Dropout layers, and this one"
                " has none"
            )
        raise HpoError(
            f"sampler {spec.sampler} can tune none of {', '.join(problem.space)} within a run",
            hint=hint,
            code="refused",
            path=("space",),
        )
