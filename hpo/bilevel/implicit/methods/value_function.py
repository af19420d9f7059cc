"""The hypergradient from first derivatives alone: what pulling at the inner problem changes in it.

With x_s the minimizer of h + g / s, D_t g(x_s) + s (D_t h(x_s) - D_t h(x)) differs from grad F by
O(1 / s). Kwon, Kwon, Wright and Nowak, F2SA (ICML 2023); Shen and Chen, PBGD (ICML 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpo.bilevel.implicit.evaluation import bound
from hpo.bilevel.implicit.methods._estimate import Estimate, Request, trained
from hpo.bilevel.implicit.problem import Bilevel
from objectives.training.bilevel import BilevelProblem
from search_spaces.errors import HpoError


def estimate(
    asked: Request, *, penalty: float = 1e4, extrapolate: bool = True, lower: str = "auto"
) -> Estimate:
    """The hypergradient from two inner problems, or three, solved without any Hessian product.

    penalty: s, in units of which 1 makes the pull of the outer loss as strong as the inner gradient
    was at the start. extrapolate: Richardson's step from s and 2 s, which leaves O(1 / s^2). Since
    differences are multiplied by s, the problems are solved to tolerance / penalty. HpoError for
    problems with a prox, whose value is not known.
    """
    problem, t = asked.problem, asked.t
    if not problem.smooth:
        raise HpoError(
            "value_function needs the values of the inner problem, and a prox gives none",
            hint="method='cg' differentiates on the support",
            code="refused",
            path=("method",),
        )
    wanted = asked.tolerance / penalty * asked.first_slope
    x = trained(asked, problem, asked.start, wanted, lower).x
    slope = problem.gradient(x, t)[1]
    raw, b, gradient = problem.outer_gradients(x, t)
    q = torch.zeros_like(b)
    if bool(b.any()):
        s = penalty * float(b.norm()) / (asked.first_slope or 1.0)
        wanted = asked.tolerance * float(b.norm()) / s
        pulled = _pulled(asked, x, s, wanted, lower)
        gradient, q = _from(problem, t, x, pulled, s)
        if extrapolate:
            closer = _pulled(asked, (x + pulled) / 2, 2 * s, wanted, lower)
            better, q = _from(problem, t, x, closer, 2 * s)
            gradient = 2 * better - gradient
    proved = bound(problem, t, b, slope)
    correction = float(q @ slope)
    return Estimate(
        value=raw - correction if proved is None else raw,
        error=abs(correction) if proved is None else proved,
        certified=proved is not None,
        gradient=gradient,
        x=x,
        slope=slope,
    )


def _pulled(asked: Request, start: Tensor, s: float, wanted: float, lower: str) -> Tensor:
    """The minimizer of h + g / s."""
    both = copy.copy(asked.problem)  # shares its counters
    both.problem = _Both(asked.problem.problem, s * both.problems)
    return trained(asked, both, start, wanted, lower).x


class _Both:
    """A problem whose inner loss is h + g / s."""

    def __init__(self, problem: BilevelProblem, s: float) -> None:
        self._problem, self._s = problem, s
        self.space = problem.space

    def init_params(self, seed: int) -> Any:
        return self._problem.init_params(seed)

    def inner_loss(self, params: Any, h: Mapping[str, Any]) -> Tensor:
        return self._problem.inner_loss(params, h) + self.outer_loss(params, h) / self._s

    def outer_loss(self, params: Any, h: Mapping[str, Any]) -> Tensor:
        return self._problem.outer_loss(params, h)


def _from(
    problem: Bilevel, t: Tensor, x: Tensor, pulled: Tensor, s: float
) -> tuple[Tensor, Tensor]:
    """The estimate (m,) at one s, and that of q = H^-1 b (n,) it amounts to."""
    t = t.detach().requires_grad_()
    difference = problem.inner(pulled, t) - problem.inner(x, t)
    problem.work.gradients += 2
    (in_t,) = torch.autograd.grad(difference, t, allow_unused=True, materialize_grads=True)
    return problem.outer_gradients(pulled, t)[2] + s * in_t, s * (x - pulled)
