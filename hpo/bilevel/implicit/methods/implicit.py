"""Implicit differentiation: grad F = D_t g - M q with H q = b, at the inner optimum.

Pedregosa (ICML 2016). What differs is how the inverse Hessian is applied: see `inverse`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.evaluation import bound, differentiate
from hpo.bilevel.implicit.inverse import cg, nystrom
from hpo.bilevel.implicit.inverse._solved import Solved
from hpo.bilevel.implicit.inverse.precondition import Apply, Pairs, diagonal, jacobi, secants
from hpo.bilevel.implicit.methods._estimate import Estimate, Request, trained
from search_spaces.plugins import unknown

PRECONDITIONERS = ("none", "pairs", "jacobi", "sketch")
_DRAWS, _RANK = 30, 50  # products that a diagonal, and a sketch, is made from
_TINY = 1e-12


def estimate(
    asked: Request,
    solve: Callable[..., Solved],
    *,
    lower: str = "auto",
    curvature: str = "hessian",
    precondition: str = "none",
    **options: Any,
) -> Estimate:
    """The hypergradient with what `solve`, told the `options`, makes of the linear system.

    curvature: the matrix H, `hessian` or `gauss_newton`. precondition: of conjugate gradients.
    """
    problem, t = asked.problem, asked.t
    solved = trained(asked, problem, asked.start, asked.tolerance * asked.first_slope, lower)
    x = solved.x

    def inverse(matrix: Curvature, b: Tensor) -> Solved:
        if solve is cg.solve:
            options["precondition"] = _made(precondition, matrix, b, solved.pairs)
        return solve(matrix, b, asked.tolerance * float(b.norm()), **options)

    found = differentiate(problem, t, x, inverse, curvature)
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


def _made(name: str, matrix: Curvature, b: Tensor, known: Pairs) -> Apply | None:
    """A stand-in for the inverse of the matrix, by name."""
    if name not in PRECONDITIONERS:
        hint = f"known: {', '.join(PRECONDITIONERS)}"
        raise unknown("precondition", name, PRECONDITIONERS, hint=hint)
    if name == "jacobi":
        return jacobi(diagonal(matrix.product, b, _DRAWS))
    if name == "pairs":
        return secants(known)
    if name == "sketch":
        least = cg.solve(matrix, b, 0.0, limit=_DRAWS).least
        return nystrom.sketch(matrix, b, _RANK, max(least, _TINY)).precondition
    return None
