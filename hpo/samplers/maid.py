"""MAID: descent along hypergradients that are as exact as each step needs, on bilevel problems.

Salehi, Mukherjee, Roberts and Ehrhardt, An adaptively inexact first-order method for bilevel
optimization (2024). The inner problem is solved, and the linear system behind the hypergradient,
only as far as the decrease that a step promises can be told from what they leave; there is no
tolerance and no step size to choose. It tunes hundreds of strengths as readily as one. Do not use
it where the inner loss is not deterministic, nor for what has no derivative: choices and whole
numbers are left to the sampler `propose`.
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
    __doc__ = f"""What can be set on MAID; nothing needs to be.

    iterations: accepted steps at most. first: the longest step of a knob at the beginning, and
    longest: ever, in units of its scale (a factor of e on a log scale, a tenth of a linear range).
    accuracy: the share of the first inner gradient that the first solve may leave. certified: error
    bounds in place of estimates, where the problem gives mu and outer_smoothness. lower: the solver
    of the inner problem. patience: steps without a better loss on the rows for selection, where the
    problem has some, after which a chain ends.
    {InRunOptions.__doc__}"""

    hold: bool = False  # the last point is solved anew in the trial itself
    iterations: int = option(50, at_least=1)
    first: float = option(0.5, above=0)
    longest: float = option(3.0, above=0)
    accuracy: float = option(0.1, above=0, at_most=0.1)
    certified: bool = False
    patience: int = option(5, at_least=1)
    lower: Literal["auto", "lbfgs", "newton", "accelerated", "adam"] = "auto"


def descend(
    problem: BilevelProblem, start: Start, seed: int, options: Any, checkpoint: Path | None
) -> Generator[Measurement]:
    from hpo.bilevel.implicit.evaluation import Rules
    from hpo.bilevel.implicit.maid import Descent, way
    from hpo.bilevel.implicit.measuring import descended

    rules = Rules(lower=options.lower, certified=options.certified)
    descent = Descent(
        options.iterations, options.first, options.longest, options.accuracy, rules=rules
    )
    return descended(
        problem, start.tunable, start.point, seed, way(descent), options.patience, checkpoint
    )


SAMPLER = Sampler(
    outer,
    Options,
    descend=descend,
    summary="descends along inexact hypergradients of a bilevel problem (MAID)",
)
