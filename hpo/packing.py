"""Trials of a small network carried out together: one ensemble in the place of many runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from hpo.blackbox import require_metric
from hpo.problem import Problem
from hpo.recovery import has_checkpoint
from hpo.trial import (
    Outcome,
    Plan,
    default_device,
    execute,
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
Told = list[tuple[int, Measurement | Outcome]]


def drain_together(
    problem: Problem, plans: Sequence[Plan], observe: Observe
) -> Generator[tuple[int, Outcome]]:
    """Runs trials to their ends; gives the number and the outcome of each as it ends.

    Each measurement goes to `observe` with its trial's number; False prunes that trial. What the
    objective raises becomes outcomes, what `observe` raises passes through.
    """
    with closing(execute_together(problem, plans)) as run:
        told = next(run, None)
        while told is not None:
            pruned = set()
            for number, news in told:
                if isinstance(news, Outcome):
                    yield number, news
                elif not observe(number, news):
                    pruned.add(number)
            try:
                told = run.send(pruned)
            except StopIteration:
                return


def execute_together(problem: Problem, plans: Sequence[Plan]) -> Generator[Told, set[int]]:
    """What trials measure and how they end, by their numbers; each report is answered by the
    numbers of those that are pruned.

    Where more than one can go together they share an ensemble, without checkpoints, and out of
    memory are all of its trials. One that has a checkpoint goes on by itself, and after an
    exception in an ensemble those that are left run one by one: so each has the error that is its
    own. Closing the generator ends what has not ended.
    """
    left = {plan.number: plan for plan in plans}
    fresh = [plan for plan in plans if _packable(plan)] if len(plans) > 1 else []
    if len(fresh) > 1:
        for number in (yield from _packed(problem, fresh)):
            del left[number]
    for number, plan in left.items():
        yield from _alone(problem, number, plan)


def _alone(problem: Problem, number: int, plan: Plan) -> Generator[Told, set[int]]:
    with closing(execute(problem, plan)) as trial:
        try:
            measurement = next(trial)
            while True:
                pruned = yield [(number, measurement)]
                measurement = trial.send(number not in pruned)
        except StopIteration as end:
            outcome: Outcome = end.value
    yield [(number, outcome)]


def _packable(plan: Plan) -> bool:
    return not (plan.alone or plan.tuned or has_checkpoint(plan.checkpoint))


def _packed(problem: Problem, plans: Sequence[Plan]) -> Generator[Told, set[int], list[int]]:
    """What an ensemble reports; returns the numbers of the trials that have ended. It stops short
    when the objective raises something."""
    members = dict(enumerate(plans))
    over: list[int] = []
    ended: set[int] | None = None
    with closing(_ensemble(problem, plans)) as run:
        while members:
            try:
                reached = _advanced(problem, run, ended)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:
                failed = failure(error)
                if is_out_of_memory(error):
                    over += [plan.number for plan in members.values()]
                    yield [(plan.number, failed) for plan in members.values()]
                return over
            pruned = yield [(members[one.member].number, one.measurement) for one in reached]
            ended, outcomes = set(), []
            for one in reached:
                number = members[one.member].number
                outcome = _outcome(problem, one, number not in pruned)
                if outcome is not None:
                    ended.add(one.member)
                    del members[one.member]
                    outcomes.append((number, outcome))
            over += [number for number, _ in outcomes]
            if outcomes:
                yield [*outcomes]
    return over


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
