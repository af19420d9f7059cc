"""Trials of a small network carried out together: one ensemble in the place of many runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hpo.blackbox import require_metric
from hpo.problem import Problem
from hpo.recovery import has_checkpoint
from hpo.trial import (
    Outcome,
    Plan,
    default_device,
    drain,
    failure,
    finite,
    is_out_of_memory,
    not_finite,
)
from objectives.training.measurement import Measurement

if TYPE_CHECKING:
    from objectives.training.together import Reached

Observe = Callable[[int, Measurement], bool]
Reports = Generator["list[Reached]", "set[int] | None"]


def drain_together(
    problem: Problem, plans: Sequence[Plan], observe: Observe
) -> Generator[tuple[int, Outcome]]:
    """Runs trials to their ends; gives the number and the outcome of each as it ends.

    Each measurement goes to `observe` with its trial's number; False prunes that trial. What the
    objective raises becomes outcomes, what `observe` raises passes through. Where more than one can
    go together they share an ensemble, without checkpoints, and out of memory are all of its
    trials. One that has a checkpoint goes on by itself, and after an exception in an ensemble those
    that are left run one by one: so each has the error that is its own.
    """
    left = {plan.number: plan for plan in plans}
    fresh = [plan for plan in plans if _packable(plan)] if len(plans) > 1 else []
    if len(fresh) > 1:
        for number, outcome in _packed(problem, fresh, observe):
            del left[number]
            yield number, outcome
    for number, plan in left.items():
        yield number, drain(problem, plan, partial(observe, number))


def _packable(plan: Plan) -> bool:
    return not (plan.alone or plan.tuned or has_checkpoint(plan.checkpoint))


def _packed(
    problem: Problem, plans: Sequence[Plan], observe: Observe
) -> Generator[tuple[int, Outcome]]:
    """The outcomes of an ensemble; it stops short when the objective raises something."""
    members = dict(enumerate(plans))
    ended: set[int] | None = None
    with closing(_ensemble(problem, plans)) as run:
        while members:
            try:
                reached = _advanced(problem, run, ended)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failed = failure(error)
                for member in members if is_out_of_memory(error) else ():
                    yield plans[member].number, failed
                return
            ended = set()
            for one in reached:
                plan = members[one.member]
                outcome = _outcome(problem, one, observe(plan.number, one.measurement))
                if outcome is not None:
                    ended.add(one.member)
                    del members[one.member]
                    yield plan.number, outcome


def _ensemble(problem: Problem, plans: Sequence[Plan]) -> Reports:
    from objectives.training.together import train_together

    assert problem.training is not None
    return train_together(
        problem.target,
        problem.regularizers,
        [plan.schedule for plan in plans],
        problem.training,
        plans[0].seed,
        device=default_device(),
    )


def _advanced(problem: Problem, run: Reports, ended: set[int] | None) -> list[Reached]:
    owner = os.getpid()
    try:
        reached = run.send(ended)
        for one in reached:
            require_metric(one.measurement.metrics, problem, "gave")
        return reached
    finally:
        if os.getpid() != owner:  # a process that the objective forked and that came back
            os._exit(0)


def _outcome(problem: Problem, reached: Reached, goes_on: bool) -> Outcome | None:
    """How a trial ended with this measurement, if it did; its seconds are its share."""
    measurement, metric = reached.measurement, problem.spec.metric
    seconds = measurement.cost["seconds"]
    if not finite(measurement, metric):
        return replace(not_finite(measurement, metric), seconds=seconds)
    if not goes_on:
        return Outcome("pruned", seconds=seconds)
    return Outcome("complete", seconds=seconds) if reached.last else None
