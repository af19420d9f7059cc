"""Steps of gradient descent with momentum on the inner loss: what unrolling differentiates.

x_{k+1} = x_k - a_k D_x h(x_k, t) + c_k (x_k - x_{k-1}), with x_{-1} = x_0 (Polyak, 1964); of a
problem with a proximal part, the prox of that, with the step a_k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.curvatures import curvature_at
from hpo.bilevel.implicit.evaluation import bound
from hpo.bilevel.implicit.inverse.power import largest
from hpo.bilevel.implicit.methods._estimate import Estimate, Request
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.errors import HpoError

STEPS = 100
MOMENTUM = 0.9

Numbers = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Plan:
    """step and momentum of each step, (K,) both."""

    step: Tensor
    momentum: Tensor

    def __len__(self) -> int:
        return len(self.step)


def plan(asked: Request, steps: int, step: Numbers | None, momentum: Numbers) -> Plan:
    """`steps` steps; the step length is 1 over the largest eigenvalue of the Hessian at the start,
    unless given. HpoError where there are not as many numbers as steps."""
    if steps < 1:
        raise HpoError(f"steps is {steps}", hint="at least 1", code="refused", path=("steps",))
    if step is None:
        curvature = Curvature(asked.problem, asked.start, asked.t)
        step = 1 / largest(curvature, asked.start)
    return Plan(
        _each("step", step, steps, asked.start), _each("momentum", momentum, steps, asked.start)
    )


def move(
    problem: Bilevel,
    x: Tensor,
    before: Tensor,
    t: Tensor,
    step: Tensor,
    momentum: Tensor,
    *,
    differentiable: bool = False,
) -> Tensor:
    """x_{k+1} (n,) from x_k and x_{k-1}, for x a leaf; differentiable in all five if asked."""
    (slope,) = torch.autograd.grad(problem.inner(x, t), x, create_graph=differentiable)
    problem.work.gradients += 1
    with torch.set_grad_enabled(differentiable):
        moved = x - step * slope + momentum * (x - before)
        return moved if problem.smooth else problem.proximal(moved, t, step)


def reached(
    asked: Request,
    x: Tensor,
    outer: tuple[float, Tensor],
    gradient: Tensor,
    q: Tensor | None = None,
    solver: Mapping[str, Tensor] | None = None,
) -> Estimate:
    """The estimate that unrolling gives, with the outer loss and its gradient in x. The value is
    that of the parameters reached; how far from F it is, is known where it can be bounded. q (n,):
    what the steps put in place of the solution of the linear system at x."""
    value, b = outer
    curvature = curvature_at(asked.problem, x, asked.t)
    slope = curvature.slope
    proved = bound(asked.problem, asked.t, b, slope)
    return Estimate(
        value=value,
        error=math.nan if proved is None else proved,
        certified=proved is not None,
        gradient=gradient,
        x=x,
        slope=slope,
        linear_residual=float((b - curvature.product(q)).norm()) if q is not None else math.nan,
        solver=solver or {},
    )


def _each(name: str, given: Numbers, steps: int, like: Tensor) -> Tensor:
    numbers = torch.as_tensor(given, dtype=like.dtype, device=like.device).detach()
    if numbers.shape not in ((), (steps,)):
        raise HpoError(
            f"{name} has the shape {tuple(numbers.shape)}, and there are {steps} steps",
            hint="one number, or one for each step",
            code="refused",
            path=(name,),
        )
    return numbers.expand(steps)
