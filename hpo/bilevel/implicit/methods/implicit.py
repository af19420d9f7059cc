"""Implicit differentiation: grad F = D_t g - M q with H q = b, at the inner optimum.

Pedregosa (ICML 2016). What differs is how the inverse Hessian is applied: see `inverse`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpo.bilevel.implicit.evaluation import bound, differentiate
from hpo.bilevel.implicit.inverse._solved import Solved
from hpo.bilevel.implicit.methods._estimate import Estimate, Request, trained


def estimate(
    asked: Request,
    solve: Callable[..., Solved],
    *,
    lower: str = "auto",
    curvature: str = "hessian",
    **options: Any,
) -> Estimate:
    """The hypergradient with what `solve`, told the `options`, makes of the linear system.

    curvature: the matrix H, `hessian` or `gauss_newton`.
    """
    problem, t = asked.problem, asked.t
    x = trained(asked, problem, asked.start, asked.tolerance * asked.first_slope, lower)
    found = differentiate(
        problem,
        t,
        x,
        lambda matrix, b: solve(matrix, b, asked.tolerance * float(b.norm()), **options),
        curvature,
    )
    proved = bound(problem, t, found.b, found.r)
    return Estimate(
        value=found.corrected if proved is None else found.raw,
        error=abs(found.raw - found.corrected) if proved is None else proved,
        certified=proved is not None,
        gradient=found.gradient,
        x=x,
        slope=found.r,
        linear_residual=found.linear.left,
        damping=found.linear.damping,
    )
