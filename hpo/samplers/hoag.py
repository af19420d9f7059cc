"""HOAG: gradient descent on bilevel problems, whose inner problem is solved more exactly step by
step, on a schedule.

Pedregosa, Hyperparameter optimization with approximate gradient (ICML 2016). Do not use it where
the inner loss is not deterministic, nor for what has no derivative (left to the sampler `propose`);
`maid` finds accuracy and step by itself and is the better first choice.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpo.samplers._options import option
from hpo.samplers._outer import outer
from hpo.samplers._sampler import InRunOptions, Sampler, Start

if TYPE_CHECKING:
    from objectives.training.bilevel import BilevelProblem
    from objectives.training.measurement import Measurement


@dataclass(frozen=True)
class Options(InRunOptions):
    __doc__ = f"""iterations: steps of the knobs at most. tolerances: how the accuracy falls with
    iterations k: first / k^2, first / k^3, first * 0.9^k, or 1e-12 throughout. first: the share of
    the first inner gradient that the first solve may leave. patience: steps without a better loss
    on the rows for selection, where the problem has some, after which a chain ends.
    {InRunOptions.__doc__}"""

    hold: bool = False  # the last point is solved anew in the trial itself
    iterations: int = option(100, at_least=1)
    tolerances: Literal["quadratic", "cubic", "exponential", "exact"] = "exponential"
    first: float = option(0.1, above=0, at_most=1)
    patience: int = option(20, at_least=1)


def descend(
    problem: BilevelProblem, start: Start, seed: int, options: Any, checkpoint: Path | None
) -> Generator[Measurement]:
    from hpo.bilevel.implicit.hoag import Descent, way
    from hpo.bilevel.implicit.measuring import descended

    downhill = way(Descent(options.iterations, options.tolerances, options.first))
    return descended(
        problem, start.tunable, start.point, seed, downhill, options.patience, checkpoint
    )


SAMPLER = Sampler(
    outer,
    Options,
    descend=descend,
    summary="gradient descent on a bilevel problem, accuracy on a schedule (HOAG)",
)
