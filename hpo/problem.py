"""What a spec means: objective loaded, space resolved, regularizers found, all before a trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpo.conditions import unconditional
from hpo.errors import HpoError
from hpo.spec import StudySpec
from hpo.wording import describe as describe
from search_spaces import catalogue, plugins
from search_spaces.clashes import refuse_clashes
from search_spaces.domains import Choice, Domain, Float, Point
from search_spaces.space import SearchSpace, knobs_like

if TYPE_CHECKING:
    from objectives.training.options import Training
    from search_spaces.regularizer import Regularizer
    from search_spaces.schedule import Schedule


@dataclass(frozen=True)
class Problem:
    """A spec with everything it names loaded.

    `target` is a Task, a bilevel problem or a black-box function; `space` what is tuned; `fixed`
    the values of `fixed_domains` that are held constant; `idle` the knobs that cannot be tuned
    within a run: those with no place to act at in the task's model, those of a bilevel problem that
    no derivative tells of; `notes` what the user should hear before it runs.
    """

    spec: StudySpec
    target: Any
    is_task: bool
    space: SearchSpace
    fixed_domains: Mapping[str, Domain]
    fixed: Point
    regularizers: Mapping[str, Regularizer]
    training: Training | None
    idle: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    is_bilevel: bool = False

    @property
    def trains(self) -> bool:
        """Whether this product does the training, so that a trial has checkpoints."""
        return self.is_task or self.is_bilevel

    def schedule(self, values: Mapping[str, Any]) -> Schedule:
        """The schedule of a trial: what its coordinates say, and the fixed knobs."""
        schedule = self.space.schedule(values)
        return schedule.pin(self.fixed_domains, self.fixed) if self.fixed else schedule


_being_loaded: ContextVar[str] = ContextVar("_being_loaded", default="")


def refuse_while_loading(call: str) -> None:
    """Raises HpoError if the objective's own file makes this call when it is imported.

    Every worker imports that file: without the error, each study would start another.
    """
    objective = _being_loaded.get()
    if objective:
        raise HpoError(
            f"objective {objective}: its file calls {call} when it is imported",
            hint=f'put the call under  if __name__ == "__main__":  (workers import the file to find'
            f" {objective.rpartition(':')[2]})",
            code="unguarded-script",
            path=("objective",),
        )


def load(spec: StudySpec) -> Problem:
    """The problem a spec describes.

    Raises HpoError with the path of the key at fault: an objective that is not there, an option
    or knob it does not know, a range that is impossible.
    """
    from objectives.training.bilevel import is_bilevel
    from objectives.training.resolve import resolve
    from objectives.training.task import is_task, training_of

    mark = _being_loaded.set(spec.objective)
    try:
        target = resolve(spec.objective, spec.objective_options)
    finally:
        _being_loaded.reset(mark)
    if not is_task(target):
        return replace(_black_box(spec, target), is_bilevel=is_bilevel(target))
    if spec.metric.startswith("holdout_"):
        raise HpoError(
            f"{spec.metric} is kept for choosing the best trial; a search on it would use it up",
            hint=f"search on val_{spec.metric.removeprefix('holdout_')}",
            code="holdout-goal",
            found=spec.metric,
            path=(spec.direction,),
        )
    training = _training(spec, training_of(target))
    known = _known_domains(spec, target, training)
    space = _space(spec, known, free=False)
    fixed_domains, fixed = _fixed(spec, known, space)
    used = {*space, *fixed}
    regularizers = {
        name: record for name, record in catalogue.records().items() if used & set(record.knobs)
    }
    try:
        refuse_clashes(regularizers)
    except HpoError as error:
        raise error.under("space") from None
    ignored, idle = _without_a_place(spec, target, regularizers)
    notes = [f"{name} ignored: this model has no {what}" for name, what in ignored.items()]
    kept = {name: record for name, record in regularizers.items() if name not in ignored}
    if isinstance(spec.space, str):
        from hpo.fitting import fitted

        space, kept, refusals = fitted(spec, target, kept, space, fixed)
        idle &= {*space}
        notes += refusals
    return Problem(
        *(spec, target, True, space, fixed_domains, fixed, kept, training, idle, tuple(notes))
    )


def _black_box(spec: StudySpec, target: Any) -> Problem:
    from objectives.training.bilevel import is_bilevel

    if spec.training or spec.budget.steps:
        key = ("training",) if spec.training else ("budget", "steps")
        what = "function: it trains on its own"
        if is_bilevel(target):
            what = "bilevel problem: its inner loss is solved, not trained for a number of steps"
        raise HpoError(
            f"objective {spec.objective} is a {what}",
            hint=f"remove {'.'.join(key)}, or pass it through objective_options",
            code="not-a-task",
            path=key,
        )
    known = _declared(spec, target)
    defaulted = "space" not in spec.model_fields_set
    if defaulted and known:
        space = SearchSpace(known)
    elif defaulted:
        raise HpoError(
            f"objective {spec.objective} is a function and names no knobs",
            hint="say what is searched, for example  space: {weight_decay: {low: 1e-6, high: 1e-1,"
            " scale: log}}",
            code="no-space",
            path=("objective",),
        )
    else:
        usual = {} if is_bilevel(target) else _needed_regularizer_knobs(spec, known)
        space = _space(spec, {**usual, **known}, free=not is_bilevel(target))
    fixed_domains, fixed = _fixed(spec, known, space, free=not is_bilevel(target))
    return Problem(spec, target, False, space, fixed_domains, fixed, {}, None)


def _needed_regularizer_knobs(spec: StudySpec, known: Mapping[str, Domain]) -> dict[str, Domain]:
    """Default ranges, loaded only when a knob is given by name alone: loading imports torch."""
    if isinstance(spec.space, str):
        return catalogue.knobs()
    given: Mapping[str, Any] = (
        spec.space if isinstance(spec.space, Mapping) else dict.fromkeys(spec.space)
    )
    bare = [
        name
        for name, said in given.items()
        if name not in known and not (isinstance(said, Mapping) and {"low", "options"} & {*said})
    ]
    return catalogue.knobs() if bare else {}


def _known_domains(spec: StudySpec, target: Any, training: Training) -> dict[str, Domain]:
    known = {
        **catalogue.knobs(),
        "learning_rate": Float(1e-5, 1.0, "log", start=min(1.0, training.learning_rate)),
        **_declared(spec, target),
    }
    return unconditional(spec, known)


def _declared(spec: StudySpec, target: Any) -> dict[str, Domain]:
    """The knobs an objective brings itself, in its attribute `space`."""
    space = getattr(target, "space", None)
    if space is None:
        return {}
    if isinstance(space, Mapping) and all(isinstance(d, Domain) for d in space.values()):
        return dict(space)
    raise HpoError(
        f"objective {spec.objective}: its attribute space is {str(space)[:60]!r}",
        hint="it maps names to domains, for example  space = {'l2': Float(1e-4, 1e4, 'log')}",
        code="bad-objective",
        path=("objective",),
    )


def _space(spec: StudySpec, known: Mapping[str, Domain], *, free: bool) -> SearchSpace:
    try:
        space = SearchSpace.parse(spec.space, known, free)
    except HpoError as error:
        raise error.under("space") from None
    if not space:
        raise HpoError(
            "space is empty: there is nothing to search",
            hint="name at least one knob (hpo list regularizers)",
            code="no-space",
            path=("space",),
        )
    return space


def _fixed(
    spec: StudySpec, known: Mapping[str, Domain], space: SearchSpace, *, free: bool = False
) -> tuple[dict[str, Domain], dict[str, Any]]:
    domains: dict[str, Domain] = {}
    for name, value in spec.fixed.items():
        path = ("fixed", name)
        if name in space:
            raise HpoError(
                f"knob {name!r} is both searched and fixed",
                hint="keep it under space: or under fixed:",
                code="duplicate-knob",
                found=name,
                path=path,
            )
        domain = known.get(name) or (any_value(value) if free else None)
        if domain is None:
            raise plugins.unknown("knob", name, known, hint=knobs_like(known, name), path=path)
        if not domain.contains(value):
            raise HpoError(
                f"fixed {name} is {value!r}, outside {describe(domain)}",
                hint="give a value inside, or search it under space: with a wider range",
                code="outside",
                found=value,
                path=path,
            )
        domains[name] = domain
    return domains, dict(spec.fixed)


def any_value(value: Any) -> Domain:
    """The one-value range of a fixed knob that only a black-box objective knows."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        return Float(float(value), float(value))
    return Choice((value,))


def _training(spec: StudySpec, default: Training) -> Training:
    from objectives.training.options import Training

    training = Training.parse(spec.training, default)
    steps = spec.budget.steps
    return training if steps is None else dataclasses.replace(training, steps=steps)


def _without_a_place(
    spec: StudySpec, target: Any, regularizers: Mapping[str, Regularizer]
) -> tuple[dict[str, str], frozenset[str]]:
    """The regularizers that cannot act on this task, each with what its model lacks, and the knobs
    that only they use; found without training."""
    from hpo.bilevel.gates.acting import acting, place

    if not any(place(record) for record in regularizers.values()):
        return {}, frozenset()
    from objectives.training.blame import described

    try:
        placed, idle = acting(regularizers, target.model(spec.seed))
    except Exception as error:
        raise HpoError(
            f"objective {spec.objective}: model({spec.seed}) raised {described(error)}",
            hint="the error is in its method model, not in hpo",
            code="objective-failed",
            path=("objective",),
        ) from error
    left_out = {name: place(r) for name, r in regularizers.items() if name not in placed}
    return left_out, frozenset(idle)
