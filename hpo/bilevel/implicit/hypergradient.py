"""The derivative of a bilevel problem's outer loss in its knobs, with what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

    from hpo.bilevel.implicit.inverse._solved import Solved
    from objectives.training.bilevel import BilevelProblem
    from search_spaces.domains import Point

Inverse = Literal["cg", "neumann", "nystrom", "identity"]


@dataclass(frozen=True)
class Certificate:
    """What a hypergradient is worth.

    value_error: how far the value may be from F; `certified` says whether that is a bound or an
    estimate. slope: the size of the inner gradient at the parameters used, first_slope: where
    training began. linear_residual: of the linear system; nan where the solver does not know it.
    damping: what had to be added to the Hessian because a direction of negative curvature was met:
    then the parameters are at no minimum, and the gradient is that of a damped problem. gradients,
    products, crosses: the work: inner gradients, Hessian products, mixed products. params: the
    inner optimum, as the problem knows its parameters.
    """

    value_error: float
    certified: bool
    slope: float
    first_slope: float
    linear_residual: float
    damping: float
    gradients: int
    products: int
    crosses: int
    params: Any


def hypergradient(
    problem: BilevelProblem,
    knobs: Point | None = None,
    tolerance: float = 1e-8,
    *,
    params: Any = None,
    inverse: Inverse = "cg",
    lower: str = "auto",
    seed: int = 0,
    **options: Any,
) -> tuple[float, dict[str, Tensor], Certificate]:
    """F at `knobs`, its gradient in them, and what both are worth.

    knobs: values of the problem's space; its start values unless given. tolerance: the inner
    problem is solved, and so is the linear system, to this share of where they begin. params: begin
    training here; a gradient at parameters that are optimal already costs no training. inverse: how
    the inverse Hessian is applied; `options` go to that solver (limit, step, rank, shift,
    curvature). lower: the solver of the inner problem. The gradient of a knob has the knob's own
    shape; whole numbers and choices have none and are left out. HpoError if the inner problem
    cannot be solved or something is not finite.
    """
    import torch

    from hpo.bilevel.implicit.evaluation import bound, differentiate
    from hpo.bilevel.implicit.lower import solvers
    from hpo.bilevel.implicit.problem import Bilevel

    point = {name: domain.start_value() for name, domain in problem.space.items()}
    flat = Bilevel(problem, {**point, **dict(knobs or {})}, seed=seed)
    t = flat.coordinates.of({**point, **dict(knobs or {})})
    start = flat.start if params is None else flat.flat(params)
    first = float(flat.gradient(flat.start, t)[1].norm())
    solved = solvers.minimize(flat, t, start, tolerance * first, name=lower)
    if not solved.reached and not float(solved.slope.norm()) <= 1e3 * tolerance * first:
        raise _unsolved(float(solved.slope.norm()), first, solved.iterations)
    solve = _solve(inverse)
    found = differentiate(
        flat, t, solved.x, lambda c, b: solve(c, b, tolerance * float(b.norm()), **options)
    )
    proved = bound(flat, t, found.b, found.r)
    if not bool(torch.isfinite(found.gradient).all()):
        raise HpoError(
            f"the hypergradient is not finite (inverse {inverse})",
            hint="use inverse='cg', which stops at negative curvature, or a shorter step",
            code="not-finite",
        )
    certificate = Certificate(
        value_error=abs(found.raw - found.corrected) if proved is None else proved,
        certified=proved is not None,
        slope=float(found.r.norm()),
        first_slope=first,
        linear_residual=found.linear.left,
        damping=found.linear.damping,
        gradients=flat.work.gradients,
        products=flat.work.products,
        crosses=flat.work.crosses,
        params=flat.params(solved.x),
    )
    value = found.corrected if proved is None else found.raw
    return value, flat.coordinates.slopes(t, found.gradient), certificate


def _solve(inverse: str) -> Callable[..., Solved]:
    from hpo.bilevel.implicit.inverse import cg, identity, neumann, nystrom
    from search_spaces.plugins import unknown

    known: Mapping[str, Callable[..., Solved]] = {
        "cg": cg.solve,
        "neumann": neumann.solve,
        "nystrom": nystrom.solve,
        "identity": identity.solve,
    }
    if inverse not in known:
        raise unknown("inverse", inverse, known, hint=f"known: {', '.join(known)}")
    return known[inverse]


def _unsolved(slope: float, first: float, spent: int) -> HpoError:
    return HpoError(
        f"the inner problem was not solved: after {spent} gradients its gradient is {slope:.2g},"
        f" from {first:.2g} at the start",
        hint="a looser tolerance, double precision, or another lower= solver",
        code="not-solved",
    )
