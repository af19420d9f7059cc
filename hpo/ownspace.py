"""The knobs of a user's own loop: a space as in a study, for a model that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hpo.bilevel.gates.acting import DROPOUT, acting, place
from hpo.wording import describe
from search_spaces import catalogue, plugins
from search_spaces.domains import Domain, Point
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer
from search_spaces.space import SearchSpace, holds


@dataclass(frozen=True)
class Knobs:
    """What is tuned and what is held; `start` names both, `notes` say what was left out."""

    space: SearchSpace
    tunable: Mapping[str, Domain]
    fixed_domains: Mapping[str, Domain]
    fixed: Point
    start: Point
    regularizers: Mapping[str, Regularizer]
    notes: tuple[str, ...]


def knobs_of(space: object, fixed: Mapping[str, Any], model: nn.Module) -> Knobs:
    """The knobs that a space means for this model.

    HpoError for knobs that do not exist, values outside their range, and a space of which nothing
    acts on this model.
    """
    records = catalogue.records()
    known = {knob: domain for record in records.values() for knob, domain in record.knobs.items()}
    found = SearchSpace.parse(space, known)
    for name, domain in found.items():
        if domain.schedule is not None:
            raise HpoError(
                f"knob {name} has a schedule to be searched between runs, but self_tune bends it"
                " within one",
                hint=f"leave out the schedule of {name}",
                code="refused",
                found=name,
            )
    for name, value in fixed.items():
        _check_fixed(name, value, known, found)
    named = {n: r for n, r in records.items() if {*found, *fixed} & set(r.knobs)}
    for name, record in named.items():
        _refuse_looking(name, record)
    used, idle = acting(named, model)
    kept = SearchSpace({name: one for name, one in found.items() if name not in idle})
    start = {**kept.start, **{name: value for name, value in fixed.items() if name not in idle}}
    scalars = {name: value for name, value in start.items() if not isinstance(value, tuple)}
    tunable = {n: d for n, d in kept.items() if not d.when or holds(d, scalars)}
    if not tunable:
        raise HpoError(
            f"nothing of {', '.join(found) or 'an empty space'} can be tuned in this model",
            hint="dropout and activation noise act where a model has nn.Dropout layers, others at"
            " the ends of branches or in nn.MultiheadAttention",
            code="no-space",
        )
    held = {name: value for name, value in fixed.items() if name not in idle}
    lacks = {knob: place(r) for r in named.values() for knob in r.knobs}
    missing = {knob: "dropout layers" if what == DROPOUT else what for knob, what in lacks.items()}
    notes = tuple(f"{name} left out: this model has no {missing[name]}" for name in sorted(idle))
    return Knobs(kept, tunable, {n: known[n] for n in held}, held, start, used, notes)


def _refuse_looking(name: str, record: Regularizer) -> None:
    """HpoError for what only a training loop of ours can do: to look at a pass, to take a step's
    gradient elsewhere, to evaluate with other weights."""
    own = ("loss_output", "loss_batch", "learn", "ascent")
    if record.evaluated or any(getattr(record, hook) is not None for hook in own):
        raise HpoError(
            f"{name} looks at the model's passes or changes the step, which self_tune cannot do in"
            " a loop of your own",
            hint="leave it out, or make the loop a task (hpo init --kind task) for hpo run",
            code="refused",
            found=name,
        )


def _check_fixed(name: str, value: Any, known: Mapping[str, Domain], space: SearchSpace) -> None:
    if name not in known:
        raise plugins.unknown("knob", name, known, hint=f"known: {', '.join(sorted(known))}")
    if name in space:
        raise HpoError(
            f"knob {name!r} is both tuned and fixed",
            hint="keep it in one of the two",
            code="duplicate-knob",
            found=name,
        )
    if not known[name].contains(value):
        raise HpoError(
            f"fixed {name} is {value!r}, outside {describe(known[name])}",
            hint="give a value inside",
            code="outside",
            found=value,
        )
