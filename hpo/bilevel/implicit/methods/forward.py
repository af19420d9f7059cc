"""Forward mode: dx/dt pushed along with the steps of the inner solver, one column for each knob.

Franceschi, Donini, Frasconi and Pontil (ICML 2017). No iterate is kept, so memory does not grow
with the steps, but each costs a Hessian product for every knob.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.methods import _steps
from hpo.bilevel.implicit.methods._estimate import Estimate, Request
from hpo.bilevel.implicit.methods._steps import MOMENTUM, STEPS, Numbers
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.errors import HpoError

MOST = 30  # numbers that knobs may have together


def estimate(
    asked: Request,
    *,
    steps: int = STEPS,
    step: Numbers | None = None,
    momentum: Numbers = MOMENTUM,
) -> Estimate:
    """The derivative of g(x_K(t), t), as `reverse` gives it, to rounding.

    HpoError for more than 30 knobs, the numbers of vectors counted one by one.
    """
    problem, t = asked.problem, asked.t
    if len(t) > MOST:
        raise HpoError(
            f"forward mode pushes a column for each of {len(t)} knobs; {MOST} at most",
            hint="method='reverse' costs the same for any number of them, method='cg' less",
            code="refused",
            path=("method",),
        )
    plan = _steps.plan(asked, steps, step, momentum)
    x = before = asked.start
    columns = past = torch.zeros(len(t), len(x), dtype=x.dtype, device=x.device)
    for length, push in zip(plan.step, plan.momentum, strict=True):
        moved, ahead = _pushed(problem, (x, before, t), (columns, past), length, push)
        x, before, columns, past = moved, x, ahead, columns
    value, b, direct = problem.outer_gradients(x, t)
    return _steps.reached(asked, x, (value, b), direct + (columns @ b).to(direct))


def _pushed(
    problem: Bilevel,
    inputs: tuple[Tensor, Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    step: Tensor,
    momentum: Tensor,
) -> tuple[Tensor, Tensor]:
    """x_{k+1} (n,) and its derivatives in t, (m, n).

    A step's adjoint is linear in what it is applied to; the derivative of that is the step's
    Jacobian: two backward passes make a forward one.
    """
    x, before, t = (one.detach().requires_grad_() for one in inputs)
    moved = _steps.move(problem, x, before, t, step, momentum, differentiable=True)
    problem.work.products += len(t)
    problem.work.crosses += len(t)
    any_adjoint = torch.zeros_like(moved, requires_grad=True)
    carried = torch.autograd.grad(
        moved, (x, before, t), any_adjoint, create_graph=True, allow_unused=True
    )
    own = torch.eye(len(t), dtype=t.dtype, device=t.device)
    known = [
        (back, pushed)
        for back, pushed in zip(carried, (*columns, own), strict=True)
        if back is not None and back.requires_grad
    ]
    (ahead,) = torch.autograd.grad(
        [back for back, _ in known],
        any_adjoint,
        [pushed for _, pushed in known],
        is_grads_batched=True,
    )
    return moved.detach(), ahead
