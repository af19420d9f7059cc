"""What every way to a hypergradient is asked, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hpo.bilevel.implicit.lower import solvers
from hpo.bilevel.implicit.lower._minimum import Minimum
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.errors import HpoError


@dataclass(frozen=True)
class Request:
    """The hypergradient of `problem` at the knobs t (m,), training from `start` (n,).

    first_slope: the size of the inner gradient where training begins unless told otherwise, of
    which `tolerance` is a share.
    """

    problem: Bilevel
    t: Tensor
    start: Tensor
    tolerance: float
    first_slope: float


@dataclass(frozen=True)
class Estimate:
    """value: of F, `error` how far off it may be (nan if unknown), a bound where `certified`.
    gradient (m,), of F in t. x (n,): the inner parameters that were reached, slope (n,) the inner
    gradient there. linear_residual, damping: of the linear system, where one is solved. solver: the
    derivatives of the value in the numbers of the inner solver, where it is differentiated.
    """

    value: float
    error: float
    certified: bool
    gradient: Tensor
    x: Tensor
    slope: Tensor
    linear_residual: float = math.nan
    damping: float = 0.0
    solver: Mapping[str, Tensor] = field(default_factory=dict)


def trained(asked: Request, problem: Bilevel, start: Tensor, wanted: float, lower: str) -> Minimum:
    """The inner optimum of `problem`, with a gradient no larger than wanted. HpoError if the
    solver ends far from that, which the last digits of rounding do not count as."""
    solved = solvers.minimize(problem, asked.t, start, wanted, name=lower)
    left = float(solved.slope.norm())
    if solved.reached or left <= 1e3 * wanted:
        return solved
    raise HpoError(
        f"the inner problem was not solved: after {solved.iterations} gradients its gradient is"
        f" {left:.2g}, from {asked.first_slope:.2g} at the start",
        hint="a looser tolerance, double precision, or another lower= solver",
        code="not-solved",
    )
