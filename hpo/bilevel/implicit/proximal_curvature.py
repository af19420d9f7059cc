"""Second derivatives where the inner problem has a proximal part: on its support alone.

The optimum is the fixed point x = prox(x - s grad f(x)). Where the prox is constant (a weight that
an L1 penalty holds at zero) x does not answer to the knobs; where it moves, its derivative goes
through both the gradient and the prox itself. Bertrand et al., Implicit differentiation of
Lasso-type models (ICML 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.problem import Bilevel

_STEP = 1e-3  # any will do at the optimum; a short one tells the support apart near it as well


class ProximalCurvature(Curvature):
    """Products with P H P + (I - P), where P keeps the coordinates in which the prox moves.

    `slope` is the proximal gradient step divided by its length. The prox must act on each
    coordinate by itself, and there be constant or have the derivative one (L1 does; put squared
    norms into the inner loss).
    """

    def __init__(self, problem: Bilevel, x: Tensor, t: Tensor) -> None:
        super().__init__(problem, x, t)
        z = (self.x - _STEP * self.slope).detach().requires_grad_()
        self._moved = problem.proximal(z, self.t, _STEP)
        (moves,) = torch.autograd.grad(self._moved.sum(), z, retain_graph=True)
        self._support = (moves > 0.5).to(x.dtype)
        self.slope = (self.x - self._moved).detach() / _STEP

    def product(self, v: Tensor) -> Tensor:
        inside = self._support * v
        return self._support * super().product(inside) + (v - inside)

    def products(self, vs: Tensor) -> Tensor:
        inside = self._support * vs
        return self._support * super().products(inside) + (vs - inside)

    def cross(self, q: Tensor) -> Tensor:
        inside = self._support * q
        (through,) = torch.autograd.grad(
            self._moved,
            self.t,
            inside / _STEP,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return super().cross(inside) - through

    def both(self, q: Tensor) -> tuple[Tensor, Tensor]:
        return self.product(q), self.cross(q)
