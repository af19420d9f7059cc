"""What a spec means: objective loaded, space resolved, regularizers found, all before a trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.spec import StudySpec
from search_spaces import plugins
from search_spaces.domains import Choice, Domain, Float, Point
from search_spaces.presets import PRESETS
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from objectives.training.options import Training
    from search_spaces.regularizer import Regularizer
    from search_spaces.schedule import Schedule

REGULARIZERS = "search_spaces.regularizers"


@dataclass(frozen=True)
class Problem:
    """A spec with everything it names loaded.

    `target` is a Task or a black-box function; `space` what is tuned; `fixed` the values of
    `fixed_domains` that are held constant; `notes` what the user should hear before it runs.
    """

    spec: StudySpec
    target: Any
    is_task: bool
    space: SearchSpace
    fixed_domains: Mapping[str, Domain]
    fixed: Point
    regularizers: Mapping[str, Regularizer]
    training: Training | None
    notes: tuple[str, ...] = ()

    def schedule(self, values: Mapping[str, Any]) -> Schedule:
        """The schedule of a trial: what its coordinates say, and the fixed knobs."""
        schedule = self.space.schedule(values)
        return schedule.pin(self.fixed_domains, self.fixed) if self.fixed else schedule


def load(spec: StudySpec) -> Problem:
    """The problem a spec describes.

    Raises HpoError with the path of the key at fault: an objective that is not there, an option
    or knob it does not know, a range that is impossible.
    """
    from objectives.training.resolve import resolve
    from objectives.training.task import is_task, training_of

    target = resolve(spec.objective, spec.objective_options)
    if not is_task(target):
        return _black_box(spec, target)
    training = _training(spec, training_of(target))
    known = _known_domains(target, training)
    space = _space(spec, known, free=False)
    fixed_domains, fixed = _fixed(spec, known, space)
    used = {*space, *fixed}
    regularizers = {
        name: record for name, record in _regularizers().items() if used & set(record.knobs)
    }
    notes = tuple(_notes(target, regularizers))
    return Problem(spec, target, True, space, fixed_domains, fixed, regularizers, training, notes)


def _black_box(spec: StudySpec, target: Any) -> Problem:
    if spec.training or spec.budget.steps:
        key = ("training",) if spec.training else ("budget", "steps")
        raise HpoError(
            f"objective {spec.objective} is a function: it trains on its own",
            hint=f"remove {'.'.join(key)}, or pass it through objective_options",
            code="not-a-task",
            path=key,
        )
    known: dict[str, Domain] = dict(getattr(target, "space", None) or {})
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
        space = _space(spec, {**_needed_regularizer_knobs(spec, known), **known}, free=True)
    fixed_domains, fixed = _fixed(spec, known, space, free=True)
    return Problem(spec, target, False, space, fixed_domains, fixed, {}, None)


def _needed_regularizer_knobs(spec: StudySpec, known: Mapping[str, Domain]) -> dict[str, Domain]:
    """Default ranges, loaded only when a knob is given by name alone: loading imports torch."""
    if isinstance(spec.space, str):
        return _regularizer_knobs()
    bare = [
        name
        for name, given in spec.space.items()
        if name not in known and not (isinstance(given, Mapping) and {"low", "options"} & {*given})
    ]
    return _regularizer_knobs() if bare else {}


def _regularizers() -> dict[str, Regularizer]:
    found = {}
    for name in plugins.names(REGULARIZERS):
        record: Any = plugins.load(REGULARIZERS, name, "REGULARIZER")
        found[name] = record
    return found


def _regularizer_knobs() -> dict[str, Domain]:
    return {k: domain for record in _regularizers().values() for k, domain in record.knobs.items()}


def _known_domains(target: Any, training: Training) -> dict[str, Domain]:
    return {
        **_regularizer_knobs(),
        "learning_rate": Float(1e-5, 1.0, "log", start=min(1.0, training.learning_rate)),
        **dict(getattr(target, "space", None) or {}),
    }


def _space(spec: StudySpec, known: Mapping[str, Domain], *, free: bool) -> SearchSpace:
    mapping: Mapping[str, Any]
    if isinstance(spec.space, str):
        preset = PRESETS.get(spec.space)
        if preset is None:
            hint = f"known: {', '.join(sorted(PRESETS))}   (hpo list spaces)"
            raise plugins.unknown("space", spec.space, PRESETS, hint=hint, path=("space",))
        mapping = dict(preset) if isinstance(preset, Mapping) else dict.fromkeys(preset)
    else:
        mapping = spec.space
    if not mapping:
        raise HpoError(
            "space is empty: there is nothing to search",
            hint="name at least one knob (hpo list regularizers)",
            code="no-space",
            path=("space",),
        )
    return SearchSpace.parse(mapping, known, free)


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
            raise plugins.unknown("knob", name, known, hint=_listing(known), path=path)
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


def _listing(known: Mapping[str, Domain]) -> str:
    return f"known: {', '.join(sorted(known))}   (hpo list regularizers)"


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


def _notes(target: Any, regularizers: Mapping[str, Regularizer]) -> list[str]:
    """Knobs that cannot act on this task, found without training."""
    sited = [name for name, record in regularizers.items() if record.activation is not None]
    if not sited:
        return []
    from objectives.training.regularization import dropout_sites

    if dropout_sites(target.model(0)):
        return []
    return [f"{name} ignored: this model has no dropout sites" for name in sited]


def describe(domain: Domain) -> str:
    """A knob's range in a few characters: `1e-06..0.1 log`, `relu|gelu`."""
    if isinstance(domain, Choice):
        return "|".join(str(option) for option in domain.options)
    scale = "" if domain.scale == "linear" else f" {domain.scale}"
    size = f" x{domain.size}" if domain.size is not None else ""
    schedule = f" {domain.schedule.kind} schedule" if domain.schedule is not None else ""
    return f"{domain.low:g}..{domain.high:g}{scale}{size}{schedule}"
