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
from search_spaces.errors import HpoError

_STEP = 1e-3  # any will do at the optimum; a short one tells the support apart near it as well
_STILL = 1e-6  # a derivative of the prox below which it does not move


class ProximalCurvature(Curvature):
    """Products with P (H + C) P + (I - P), where P keeps the coordinates in which the prox moves
    and the diagonal C is its own curvature, (1/D - 1) / step for D its derivative.

    `slope` is the proximal gradient step divided by its length. The prox must act on each
    coordinate by itself, as that of L1 or of an elastic net does; HpoError for one that mixes them.
    """

    def __init__(self, problem: Bilevel, x: Tensor, t: Tensor) -> None:
        super().__init__(problem, x, t)
        z = (self.x - _STEP * self.slope).detach().requires_grad_()
        self._moved = problem.proximal(z, self.t, _STEP)
        (moves,) = torch.autograd.grad(self._moved.sum(), z, retain_graph=True)
        _refuse_mixing(self._moved, z, moves)
        self._support = (moves > _STILL).to(x.dtype)
        self._rate = moves.clamp(min=_STILL)
        self._bend = (1 / self._rate - 1) / _STEP
        self.slope = (self.x - self._moved).detach() / _STEP

    def product(self, v: Tensor) -> Tensor:
        inside = self._support * v
        return self._support * (super().product(inside) + self._bend * inside) + (v - inside)

    def products(self, vs: Tensor) -> Tensor:
        inside = self._support * vs
        return self._support * (super().products(inside) + self._bend * inside) + (vs - inside)

    def cross(self, q: Tensor) -> Tensor:
        inside = self._support * q
        (through,) = torch.autograd.grad(
            self._moved,
            self.t,
            inside / (self._rate * _STEP),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return super().cross(inside) - through


def _refuse_mixing(moved: Tensor, z: Tensor, moves: Tensor) -> None:
    """Raises HpoError if the derivative of the prox is not a diagonal."""
    rng = torch.Generator(z.device).manual_seed(0)
    v = torch.randn(z.shape, generator=rng, dtype=z.dtype, device=z.device)
    (found,) = torch.autograd.grad(moved, z, v, retain_graph=True)
    least = 0.01 * float((1 - moves).abs().max()) + 10 * torch.finfo(z.dtype).eps
    if float((found - moves * v).abs().max()) > least * float(v.abs().max()):
        raise HpoError(
            "the prox changes several parameters together (a group penalty?)",
            hint="only a prox that acts on each parameter by itself can be differentiated; another"
            " penalty, or sampler tpe",
            code="bad-prox",
        )
