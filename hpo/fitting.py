"""What of a ready-made space fits a task: found out by trying each regularizer on one batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from hpo.problem import Problem
    from hpo.spec import StudySpec
    from search_spaces.domains import Point
    from search_spaces.regularizer import Regularizer


_LOOKING = ("batch", "target", "loss_example", "loss_output", "loss_batch", "learn", "remember")


def fitted(
    spec: StudySpec,
    target: Any,
    records: Mapping[str, Regularizer],
    space: SearchSpace,
    fixed: Point,
) -> tuple[SearchSpace, dict[str, Regularizer], list[str]]:
    """A ready-made space without the regularizers that refuse this task, those that are left, and
    what the others say. Raises HpoError where a study fixes a knob of one that refuses it."""
    refusals = unfit(target, records, space, fixed, spec.seed)
    _refuse({n: e for n, e in refusals.items() if {*records[n].knobs} & {*fixed}}, spec, records)
    kept = {name: record for name, record in records.items() if name not in refusals}
    used = {knob for record in kept.values() for knob in record.knobs}
    used |= {*(getattr(target, "space", None) or ()), "learning_rate"}
    domains = {name: domain for name, domain in space.items() if name in used}
    if not domains:
        raise HpoError(
            f"nothing of space {spec.space} fits objective {spec.objective}",
            hint="\n".join(error.message for error in refusals.values()),
            code="no-space",
            found=spec.space,
            path=("space",),
        )
    by_reason: dict[str, list[str]] = {}
    for name, error in refusals.items():
        by_reason.setdefault(error.message.removeprefix(f"{name} "), []).append(name)
    told = [f"{', '.join(names)} left out: {reason}" for reason, names in by_reason.items()]
    return SearchSpace(domains), kept, told


def check(problem: Problem) -> None:
    """Raises HpoError for regularizers that the study names and the task refuses.

    Not for a ready-made space, of which those have been left out by `fitted`.
    """
    if problem.is_task:
        spec, used = problem.spec, problem.regularizers
        refusals = unfit(problem.target, used, problem.space, problem.fixed, spec.seed)
        _refuse(refusals, spec, used)


def _refuse(
    refusals: Mapping[str, HpoError], spec: StudySpec, records: Mapping[str, Regularizer]
) -> None:
    """Raises one HpoError for all the refusals, if there are any."""
    if not refusals:
        return
    searched = {*spec.space} if not isinstance(spec.space, str) else set()
    given = searched | {*spec.fixed}
    own = [knob for name in refusals for knob in records[name].knobs if knob in given]
    (first, *others) = refusals.values()
    raise HpoError(
        f"objective {spec.objective}: {first.message}",
        hint="\n".join(
            [first.hint, *(other.message for other in others), f"leave out {', '.join(own)}"]
        ),
        code=first.code,
        path=("space" if own[0] in searched else "fixed", own[0]),
    )


def unfit(
    task: Any,
    regularizers: Mapping[str, Regularizer],
    space: SearchSpace,
    fixed: Point,
    seed: int,
) -> dict[str, HpoError]:
    """The regularizers that refuse the task, each with what they say; on a training batch, with
    every knob of the space at the middle of its range. Nothing is trained.

    None where trying says nothing: they change no batch and look at no pass, or the task itself
    cannot be run, which the first trial will tell.
    """
    if not any(getattr(r, hook) for r in regularizers.values() for hook in _LOOKING):
        return {}
    try:
        return _tried(task, regularizers, space, fixed, seed)
    except Exception:
        return {}


def _tried(
    task: Any,
    regularizers: Mapping[str, Regularizer],
    space: SearchSpace,
    fixed: Point,
    seed: int,
) -> dict[str, HpoError]:
    import torch

    from objectives.training.beginning import beginning
    from objectives.training.regularization import Regularization
    from objectives.training.state import build_model

    model = build_model(task, seed).train()
    start = beginning(task, model, seed, torch.device("cpu"))
    batch = next(start.batches())
    point = {**{k: _middle(domain) for k, domain in space.items()}, **fixed}
    found = {}
    for name, record in regularizers.items():
        rng = torch.Generator().manual_seed(seed % 2**63)
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
            try:
                alone = Regularization(task, model, {name: record}, point, rng, lambda: start)
                undo = alone.attach()
                try:
                    alone.loss(model, batch, point)
                finally:
                    for back in reversed(undo):
                        back()
            except HpoError as error:
                found[name] = error
    return found


def _middle(domain: Any) -> Any:
    value = domain.from_unit(0.5)
    return value if domain.size is None else (value,) * domain.size
