"""What samplers share that follow the hypergradient while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.samplers._options import option
from hpo.samplers._outer import outer
from hpo.samplers._sampler import InRunOptions, Sampler, Start
from search_spaces.domains import Choice, Domain, Float

if TYPE_CHECKING:
    from hpo.bilevel.online.methods._method import Method
    from objectives.training.bilevel import BilevelProblem
    from objectives.training.measurement import Measurement
    from objectives.training.tuner import Tuner
    from search_spaces.regularizer import Regularizer

NO_SLOPE = "has no derivative"


@dataclass(frozen=True)
class OnlineOptions(InRunOptions):
    __doc__ = f"""every: training steps for each step of the knobs; on a bilevel problem soba and
    saba take one of each. path: how often a knob can travel its range in a run.
    warmup: the share of a network's training before the first step of the knobs; settle: after the
    last. iterations: steps of the knobs on a bilevel problem; batch: rows that a training step of
    one sees, where it has rows.
    {InRunOptions.__doc__}"""

    every: int | None = option(None, at_least=1)
    path: float = option(2.0, above=0)
    warmup: float = option(0.1, at_least=0, at_most=1)
    settle: float = option(0.1, at_least=0, at_most=1)
    iterations: int = option(500, at_least=20)
    batch: int = option(64, at_least=1)


def in_loss(regularizer: Regularizer | None, domain: Domain) -> str:
    """Why a knob cannot follow a hypergradient: the loss has no derivative in it."""
    if not isinstance(domain, Float):
        return "is a choice" if isinstance(domain, Choice) else "is a whole number"
    return "" if regularizer is None or regularizer.differentiable else NO_SLOPE


def in_training(regularizer: Regularizer | None, domain: Domain) -> str:
    """The same where training may also rest elsewhere, smoothly, by the optimizer's step."""
    if regularizer is None or not regularizer.by_optimizer_alone:
        return in_loss(regularizer, domain)
    return in_loss(None, domain)


def online(
    summary: str,
    options: type,
    method: Callable[[Any], Method],
    stiff: Callable[[Regularizer | None, Domain], str] | None = in_training,
    twice: bool = True,
) -> Sampler:
    """The sampler of a method; `stiff` says which knobs it cannot bend in a network's training,
    None: it is for bilevel problems alone."""

    def tune(start: Start, given: Any) -> Tuner:
        from hpo.bilevel.online.tuning import OnlineTuning, Pace

        curvature: Any = getattr(given, "curvature", "gauss_newton")
        pace = Pace(given.every, given.warmup, given.settle, given.path, curvature)
        return OnlineTuning(start.tunable, start.regularizers, start.point, method(given), pace)

    def descend(
        problem: BilevelProblem, start: Start, seed: int, given: Any, checkpoint: Path | None
    ) -> Generator[Measurement]:
        from hpo.bilevel.implicit.measuring import descended
        from hpo.bilevel.online.chain import Training, way

        training = Training(
            method(given), given.iterations, given.every, given.batch, given.path, seed=seed
        )
        return descended(problem, start.tunable, start.point, seed, way(training), None, checkpoint)

    return Sampler(
        outer,
        options,
        tune=None if stiff is None else tune,
        descend=descend,
        stiff=stiff,
        twice=twice,
        proximal=False,
        summary=summary,
    )
