"""Reverse mode through the steps of the inner solver: the derivative of what training really gives.

Maclaurin, Duvenaud and Adams (ICML 2015); Franceschi, Donini, Frasconi and Pontil (ICML 2017);
Grazzi, Franceschi, Pontil and Salzo (ICML 2020). Only the iterates are kept; the graph of a step is
built anew when the backward pass comes to it, so that memory is K n numbers and one graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.methods import _steps
from hpo.bilevel.implicit.methods._estimate import Estimate, Request
from hpo.bilevel.implicit.methods._steps import MOMENTUM, STEPS, Numbers, Plan
from hpo.bilevel.implicit.problem import Bilevel


def estimate(
    asked: Request,
    *,
    steps: int = STEPS,
    step: Numbers | None = None,
    momentum: Numbers = MOMENTUM,
) -> Estimate:
    """The derivative of g(x_K(t), t), where x_K is reached from the start by K = `steps` steps.

    step, momentum: a number, or one for each step; `solver` holds the derivatives in them, of the
    same shapes. The start, and a step that is not given, are taken for constants.
    """
    problem, t = asked.problem, asked.t
    plan = _steps.plan(asked, steps, step, momentum)
    path = iterates(problem, t, asked.start, plan)
    x = path.pop()
    value, b, gradient = problem.outer_gradients(x, t)
    in_step, in_momentum = torch.zeros_like(plan.step), torch.zeros_like(plan.momentum)
    adjoint, earlier = b, torch.zeros_like(b)  # of x_{k+1}, and what x_k has from later steps
    q = torch.zeros_like(b)
    for k in reversed(range(len(plan))):
        here = path.pop()
        before = path[-1] if path else here
        in_x, in_before, in_t, in_step[k], in_momentum[k] = _backward(
            problem, (here, before, t, plan.step[k], plan.momentum[k]), adjoint
        )
        q = q + plan.step[k] * adjoint
        adjoint, earlier = earlier + in_x, in_before
        gradient = gradient + in_t
    solver = {"step": _shaped(in_step, step), "momentum": _shaped(in_momentum, momentum)}
    return _steps.reached(asked, x, (value, b), gradient, q if problem.smooth else None, solver)


def iterates(problem: Bilevel, t: Tensor, start: Tensor, plan: Plan) -> list[Tensor]:
    """x_0 to x_K, (n,) each, without graphs."""
    path = [start]
    for step, momentum in zip(plan.step, plan.momentum, strict=True):
        x = path[-1].detach().requires_grad_()
        before = path[-2] if len(path) > 1 else path[-1]
        path.append(_steps.move(problem, x, before, t, step, momentum).detach())
    return path


def _backward(problem: Bilevel, inputs: tuple[Tensor, ...], adjoint: Tensor) -> tuple[Tensor, ...]:
    """The adjoint of a step carried to what it began with."""
    leaves = tuple(one.detach().requires_grad_() for one in inputs)
    moved = _steps.move(problem, *leaves, differentiable=True)
    problem.work.products += 1
    problem.work.crosses += 1
    return torch.autograd.grad(moved, leaves, adjoint, allow_unused=True, materialize_grads=True)


def _shaped(each: Tensor, given: Numbers | None) -> Tensor:
    """The derivative in one number, where one was given for all steps."""
    return each.sum() if given is None or torch.as_tensor(given).ndim == 0 else each
