"""The solvers of the inner problem by name, and which one is taken unless one is named."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hpo.bilevel.implicit.inverse.precondition import Pairs
from hpo.bilevel.implicit.lower import accelerated, adam, lbfgs, newton, proximal
from hpo.bilevel.implicit.lower._minimum import Minimum
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

NAMES = ("auto", "lbfgs", "newton", "accelerated", "adam", "proximal")


def minimize(
    problem: Bilevel,
    t: Tensor,
    x: Tensor,
    tolerance: float,
    *,
    name: str = "auto",
    known: Pairs = (),
    measure: Callable[[Tensor], float] | None = None,
) -> Minimum:
    """The inner problem at t solved from x until |gradient|, or `measure` of it, is within the
    tolerance. Unless named, L-BFGS; where the problem has a proximal part, that needs `proximal`.
    """
    if name == "auto":
        name = "lbfgs" if problem.smooth else "proximal"
    if name in NAMES and (name == "proximal") == problem.smooth:
        raise HpoError(
            f"lower is {name}, and the inner problem has {'no' if problem.smooth else 'a'} prox",
            hint="leave lower out: the solver is chosen to fit",
            code="refused",
            path=("lower",),
        )
    if name == "lbfgs":
        return lbfgs.minimize(problem, t, x, tolerance, known=known, measure=measure)
    if name == "newton":
        return newton.minimize(problem, t, x, tolerance, measure=measure)
    if name == "accelerated":
        return accelerated.minimize(problem, t, x, tolerance, measure=measure)
    if name == "adam":
        return adam.minimize(problem, t, x, tolerance, known=known, measure=measure)
    if name == "proximal":
        return proximal.minimize(problem, t, x, tolerance, measure=measure)
    raise unknown("lower", name, NAMES, hint=f"known: {', '.join(NAMES)}")
