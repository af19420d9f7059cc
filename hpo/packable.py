"""Whether the trials of a study can be carried out together, found out before the first one."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from hpo import samplers, scheduling
from hpo.errors import HpoError
from hpo.problem import Problem
from hpo.trial import default_device
from objectives.training.blame import described
from search_spaces.domains import Choice

if TYPE_CHECKING:
    from objectives.training.measurement import Measurement
    from objectives.training.options import Training
    from search_spaces.schedule import Schedule

Answer = TypeVar("Answer")
CLOSE = 1e-3  # of the losses after two steps, which differ by rounding alone
TIMED_MEMBERS = 8
TIMED_STEPS = 20
TIMED_SECONDS = 0.1  # of one run by itself
PAYS = 1.2  # a gain below it may be noise


def checked(problem: Problem) -> Problem:
    """The problem, with a note where packing hardly pays.

    Raises HpoError if trials are to be packed and cannot be.
    """
    pack = problem.spec.pack
    if pack == 1:
        return problem
    reason = why_not(problem)
    if reason is not None:
        raise HpoError(
            f"pack is {pack}, but {reason}",
            hint="leave pack out; --workers runs several trials at once as well",
            code="refused",
            found=pack,
            path=("pack",),
        )
    members = min(pack, TIMED_MEMBERS)
    gain = _quietly(_gain, problem, members) if default_device() == "cpu" else math.inf
    if gain >= PAYS:
        return problem
    note = f"pack hardly pays: {members} trials together were {gain:.1f} times as fast as alone"
    return replace(problem, notes=(*problem.notes, note))


def why_not(problem: Problem) -> str | None:
    """Why trials of a problem cannot be carried out together, as the end of a sentence; None if
    they can. Two of two steps each are tried, on the CPU."""
    spec = problem.spec
    if not problem.is_task:
        kind = "bilevel problem" if problem.is_bilevel else "function"
        return f"objective {spec.objective} is a {kind}, and only trainings of a task can be packed"
    if scheduling.scheduling(problem) is not None:
        who = f"sampler {spec.sampler}" if spec.prune == "none" else "this pruner"
        return f"{who} moves each trial by itself"
    if samplers.load(spec.sampler).in_run:
        return f"sampler {spec.sampler} bends the knobs of each run by itself"
    if spec.seeds > 1:
        return f"seeds is {spec.seeds}, and trials that are packed have one seed"
    for name, domain in problem.space.items():
        if isinstance(domain, Choice):
            return f"knob {name} is a choice, and trials that are packed run the same operations"
    for name, record in problem.regularizers.items():
        if record.ascent or record.learn or record.evaluated:
            return f"{name} does more than change the loss of a step, which is not packed"
    return _quietly(_tried, problem)


def _quietly(function: Callable[..., Answer], *given: Any) -> Answer:
    """What the objective prints and warns of is for its workers' logs."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        # torch has no rule for an operation and would carry it out member by member.
        warnings.filterwarnings("error", "There is a performance drop")
        return function(*given)


def _tried(problem: Problem) -> str | None:
    short = _training(problem, 2, 1)
    schedules = _schedules(problem, 2)
    try:
        alone = [[*_alone(problem, schedule, short)] for schedule in schedules]
    except Exception:
        return None  # it is not for packing: every trial will tell
    try:
        together = [[one.measurement for one in r] for r in _together(problem, schedules, short)]
    except Exception as error:
        return f"this model cannot be trained side by side with others: {described(error)}"
    pairs = zip((run[-1] for run in alone), together[-1], strict=True)
    if all(_same(one.metrics, other.metrics) for one, other in pairs):
        return None
    return "this model does not come out the same side by side with others as alone"


def _same(one: dict[str, float], other: dict[str, float]) -> bool:
    losses = ("train_loss", "val_loss")
    numbers = [(one[name], other[name]) for name in losses if math.isfinite(one[name])]
    return all(math.isclose(*pair, rel_tol=CLOSE, abs_tol=CLOSE) for pair in numbers)


def _gain(problem: Problem, members: int) -> float:
    """How many times the trials that a second of CPU time carries out, together against alone;
    infinity if they raise.

    One thread, for both to be counted alike; the first half of each run warms up.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        schedules = _schedules(problem, members)
        two_steps = _second_half(_alone(problem, schedules[0], _training(problem, 4, 2)))
        steps = min(max(round(2 * TIMED_SECONDS / two_steps), 1), TIMED_STEPS)
        training = _training(problem, 2 * steps, 2)
        alone = _second_half(_alone(problem, schedules[0], training))
        return members * alone / _second_half(_together(problem, schedules, training))
    except Exception:
        return math.inf  # not for packing: every trial will tell
    finally:
        torch.set_num_threads(threads)


def _second_half(run: Generator[Any, Any]) -> float:
    """The CPU seconds between the first and the last measurement."""
    next(run)
    begun = time.process_time()
    for _ in run:
        pass
    return max(time.process_time() - begun, 1e-9)


def _training(problem: Problem, steps: int, evaluations: int) -> Training:
    assert problem.training is not None
    return replace(
        problem.training, steps=steps, evaluations=evaluations, warmup=0.0, patience=None
    )


def _schedules(problem: Problem, count: int) -> list[Schedule]:
    """Schedules that differ in every knob, the start values among them."""
    start = problem.space.start_coordinates()
    others = [
        {n: d.from_unit((i + 1) / (count + 1)) for n, d in problem.space.coordinates().items()}
        for i in range(count - 1)
    ]
    return [problem.schedule(values) for values in (start, *others)]


def _alone(problem: Problem, schedule: Schedule, training: Training) -> Generator[Measurement]:
    from objectives.training.loop import train
    from objectives.training.tuner import Follow

    seed = problem.spec.seed
    return train(problem.target, problem.regularizers, Follow(schedule), training, seed)


def _together(
    problem: Problem, schedules: Sequence[Schedule], training: Training
) -> Generator[Any, Any]:
    from objectives.training.together import train_together

    seed = problem.spec.seed
    return train_together(problem.target, problem.regularizers, schedules, training, seed)
