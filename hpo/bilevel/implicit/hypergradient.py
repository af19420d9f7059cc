"""The derivative of a bilevel problem's outer loss in its knobs, with what it is worth."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

    from hpo.bilevel.implicit.methods._estimate import Estimate
    from objectives.training.bilevel import BilevelProblem
    from search_spaces.domains import Point

Method = Literal["cg", "neumann", "nystrom", "identity", "reverse", "forward", "value_function"]


@dataclass(frozen=True)
class Certificate:
    """What a hypergradient is worth.

    value_error: how far the value may be from F, nan if that is not known; `certified` says whether
    it is a bound or an estimate. slope: the size of the inner gradient at the parameters used,
    first_slope: where training began. linear_residual: of the linear system, which the steps of
    method='reverse' solve too if there are enough; nan where it is not known. damping: what had to
    be added to the Hessian because a direction of negative curvature was met: then the parameters
    are at no minimum, and the gradient is that of a damped problem. gradients, products, crosses:
    the work: inner gradients, Hessian products, mixed products. params: the parameters used, as the
    problem knows them. solver: derivatives of the value in `step` and `momentum` of the inner
    solver, from method='reverse'.
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
    solver: Mapping[str, Tensor]


def hypergradient(
    problem: BilevelProblem,
    knobs: Point | None = None,
    tolerance: float = 1e-8,
    *,
    params: Any = None,
    method: Method = "cg",
    seed: int = 0,
    **options: Any,
) -> tuple[float, dict[str, Tensor], Certificate]:
    """F at `knobs`, its gradient in them, and what both are worth.

    knobs: values of the problem's space; its start values unless given. tolerance: the inner
    problem is solved, and so is a linear system, to this share of where they begin. params: begin
    training here; a gradient at parameters that are optimal already costs no training. The gradient
    of a knob has the knob's own shape; whole numbers and choices have none and are left out.

    method, and the options it takes:
    cg              precondition, limit: implicit differentiation, by conjugate gradients; the
                    preconditioner is none, pairs (those of the inner solver), jacobi or sketch
    neumann         step, limit: the same, by a series of gradient steps
    nystrom         rank, shift: the same, from a sketch of low rank
    identity        step: the same, with 1 / step in place of the Hessian
    reverse         steps, step, momentum: backwards through the steps of an inner solver
    forward         steps, step, momentum: along with them, for few knobs
    value_function  penalty, extrapolate: first derivatives alone
    The first four take curvature, `hessian` or `gauss_newton` (for networks; the problem then gives
    `inner_parts`). All but reverse and forward, which take their `steps` whatever the tolerance,
    take lower: the solver of the inner problem.

    HpoError if the inner problem cannot be solved or something is not finite.
    """
    import torch

    from hpo.bilevel.implicit.evaluation import not_finite
    from hpo.bilevel.implicit.methods._estimate import Request
    from hpo.bilevel.implicit.problem import Bilevel

    estimate = _method(method, options)
    if not 0 < tolerance < 1:
        raise HpoError(
            f"tolerance is {tolerance:g}",
            hint="it is a share of where the solvers begin: above 0 and below 1",
            code="bad-option",
            path=("tolerance",),
        )
    point = _point(problem, knobs or {})
    flat = Bilevel(problem, point, seed=seed)
    t = flat.coordinates.of(point)
    start = flat.start if params is None else flat.flat(params)
    first = float(flat.gradient(flat.start, t)[1].norm())
    if not math.isfinite(first):
        raise not_finite()
    found = estimate(Request(flat, t, start, tolerance, first))
    left = float(found.slope.norm())
    if left > 2 * first:
        raise HpoError(
            f"the inner steps lead away: the gradient is {left:.2g}, from {first:.2g} at the start",
            hint="a shorter step, or method='cg', whose solver chooses its own",
            code="not-solved",
        )
    if not bool(torch.isfinite(found.gradient).all()):
        raise HpoError(
            f"the hypergradient is not finite (method {method})",
            hint="a shorter step, or method='cg', which stops at negative curvature",
            code="not-finite",
        )
    certificate = Certificate(
        value_error=found.error,
        certified=found.certified,
        slope=left,
        first_slope=first,
        linear_residual=found.linear_residual,
        damping=found.damping,
        gradients=flat.work.gradients,
        products=flat.work.products,
        crosses=flat.work.crosses,
        params=flat.params(found.x),
        solver=found.solver,
    )
    return found.value, flat.coordinates.slopes(t, found.gradient), certificate


def _point(problem: BilevelProblem, knobs: Point) -> dict[str, Any]:
    """The start values with these in their place. HpoError for a problem without a space, a knob
    that it does not have, or a value that is not in its range."""
    from objectives.training.bilevel import METHODS, is_bilevel
    from search_spaces.domains import Float
    from search_spaces.plugins import unknown

    if isinstance(problem, type) or not is_bilevel(problem) or not hasattr(problem, "space"):
        what = problem.__name__ if isinstance(problem, type) else type(problem).__name__
        raise HpoError(
            f"{what} is no bilevel problem",
            hint=f"give an object with space, {', '.join(METHODS)}",
            code="bad-problem",
        )
    point: dict[str, Any] = {n: domain.start_value() for n, domain in problem.space.items()}
    for name, value in knobs.items():
        if name not in point:
            known = f"its knobs: {', '.join(point)}"
            raise unknown("knob", name, point, hint=known, path=(name,))
        domain = problem.space[name]
        given: Any = value
        given = given.tolist() if hasattr(given, "tolist") else given
        plain: Any = tuple(given) if isinstance(given, list) else given
        numbers = plain if isinstance(plain, tuple) else (plain,)
        inside = domain.contains(plain)
        if inside and isinstance(domain, Float):
            inside = all(isinstance(one, float | int) and one >= domain.smallest for one in numbers)
        if not inside:
            raise HpoError(
                f"knob {name} is {str(plain)[:60]}, which is not in its range",
                hint=f"it is a {domain}"[:200],
                code="outside",
                found=str(plain)[:60],
                path=(name,),
            )
        point[name] = plain
    return point


_INSIDE = {"start", "enough", "truncated"}  # what solvers are told from inside, not by a caller


def _method(name: str, options: Mapping[str, Any]) -> Callable[..., Estimate]:
    """The method of that name, told the options. HpoError for one that it does not have."""
    from hpo.bilevel.implicit.inverse import cg, identity, neumann, nystrom
    from hpo.bilevel.implicit.methods import forward, implicit, reverse, value_function
    from search_spaces.plugins import unknown

    inverses = {"cg": cg, "neumann": neumann, "nystrom": nystrom, "identity": identity}
    others = {"reverse": reverse, "forward": forward, "value_function": value_function}
    if name not in (known := [*inverses, *others]):
        raise unknown("method", name, known, hint=f"known: {', '.join(known)}")
    if name in inverses:
        solve = inverses[name].solve
        way, takes = partial(implicit.estimate, solve=solve), [implicit.estimate, solve]
    else:
        way, takes = others[name].estimate, [others[name].estimate]
    parameters = [
        one for function in takes for one in inspect.signature(function).parameters.values()
    ]
    allowed = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    allowed = [one for one in dict.fromkeys(allowed) if one not in _INSIDE]
    if name != "cg" and "precondition" in allowed:
        allowed.remove("precondition")
    for option in options:
        if option not in allowed:
            hint = f"method {name} takes {', '.join(allowed)}"
            raise unknown("option", option, allowed, hint=hint, path=(option,))
    return partial(way, **options)
