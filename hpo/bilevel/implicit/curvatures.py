"""The stand-ins for the curvature of the inner problem by name."""

from __future__ import annotations

from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.gauss_newton import GaussNewton
from hpo.bilevel.implicit.problem import Bilevel
from hpo.bilevel.implicit.proximal_curvature import ProximalCurvature
from search_spaces.plugins import unknown

NAMES = ("hessian", "gauss_newton")


def curvature_at(problem: Bilevel, x: Tensor, t: Tensor, name: str = "hessian") -> Curvature:
    """The curvature of a problem at a point: its Hessian, with or without a proximal part, or the
    Gauss-Newton matrix."""
    if name not in NAMES:
        raise unknown("curvature", name, NAMES, hint=f"known: {', '.join(NAMES)}")
    if name == "gauss_newton":
        return GaussNewton(problem, x, t)
    return (Curvature if problem.smooth else ProximalCurvature)(problem, x, t)
