"""The generalised Gauss-Newton matrix in place of the Hessian: positive semidefinite in networks.

Where h = L(z(x)) + R(x), it is J' (D^2 L) J + D^2 R, with J the Jacobian of the outputs z.
Schraudolph (Neural Computation, 2002); Martens, New insights and perspectives on the natural
gradient method (JMLR 2020), section 8. It leaves out the curvature of the outputs themselves: it is
the Hessian where they are linear in x or fit perfectly; elsewhere an approximation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.errors import HpoError

_AGREE = 1e-4  # share by which the parts may differ from the loss, for rounding in single precision


class GaussNewton(Curvature):
    """Products with J' (D^2 L) J + D^2 R at (x, t); `slope` and `cross` are those of the loss.

    HpoError where the problem gives no `inner_parts`, or parts that are not those of its loss.
    """

    def __init__(self, problem: Bilevel, x: Tensor, t: Tensor) -> None:
        super().__init__(problem, x, t)
        parts = getattr(problem.problem, "inner_parts", None)
        if not callable(parts) or not problem.smooth:
            missing = "has a prox" if not problem.smooth else "gives no inner_parts"
            raise HpoError(
                f"curvature is gauss_newton, and the problem {missing}",
                hint="inner_parts gives outputs, loss_of_outputs and rest; or curvature='hessian'",
                code="refused",
                path=("curvature",),
            )
        knobs = problem.knobs(self.t.detach())
        self._outputs, loss_of, rest = parts(problem.params(self.x), knobs)
        self._at = self._outputs.detach().requires_grad_()
        loss, rest = loss_of(self._at).sum(), rest.sum()
        _check(float(loss.detach() + rest.detach()), float(problem.inner(x.detach(), t.detach())))
        self._loss_slope = _slope(loss, self._at)
        self._rest_slope = _slope(rest, self.x)
        # The Jacobian times v: the derivative in u of J'u, which is linear in u.
        self._any = torch.zeros_like(self._at, requires_grad=True)
        (self._back,) = torch.autograd.grad(self._outputs, self.x, self._any, create_graph=True)

    def product(self, v: Tensor) -> Tensor:
        self._work.products += 1
        return self._applied(v, batched=False)

    def products(self, vs: Tensor) -> Tensor:
        self._work.products += len(vs)
        return self._applied(vs, batched=True)

    def _applied(self, v: Tensor, batched: bool) -> Tensor:
        ahead = _times(self._back, self._any, v, batched)
        bent = _times(self._loss_slope, self._at, ahead, batched)
        return _times(self._outputs, self.x, bent, batched) + _times(
            self._rest_slope, self.x, v, batched
        )


def _slope(value: Tensor, of: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(of)
    (slope,) = torch.autograd.grad(
        value, of, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return slope


def _times(value: Tensor, of: Tensor, v: Tensor, batched: bool) -> Tensor:
    """The transposed Jacobian of `value` times v, or each row of it."""
    if not value.requires_grad:
        return torch.zeros(*v.shape[: int(batched)], *of.shape, dtype=of.dtype, device=of.device)
    (found,) = torch.autograd.grad(
        value,
        of,
        v,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
        is_grads_batched=batched,
    )
    return found


def _check(parts: float, whole: float) -> None:
    if abs(parts - whole) <= _AGREE * max(abs(parts), abs(whole)):
        return
    raise HpoError(
        f"loss_of_outputs(outputs) + rest is {parts:.6g}, and inner_loss is {whole:.6g}",
        hint="inner_parts gives the parts of inner_loss: their sum is the same number",
        code="bad-problem",
    )
