"""The graph of the inner gradient at one point, built once and kept: second derivatives from it."""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.problem import Bilevel


class Curvature:
    """Products with the second derivatives of the inner loss at (x, t), on some rows or on all.

    `slope` (n,) is the inner gradient there: zero at the optimum. Building this costs one gradient,
    a product after that about as much as a gradient. Reverse over reverse: no tracing, and the
    graph is walked again for every product.
    """

    def __init__(self, problem: Bilevel, x: Tensor, t: Tensor, rows: Tensor | None = None) -> None:
        self._work = problem.work
        self.x = x.detach().requires_grad_()
        self.t = t.detach().requires_grad_()
        loss = problem.inner(self.x, self.t, rows)
        (self._graph,) = torch.autograd.grad(loss, self.x, create_graph=True)
        self._work.gradients += 1
        self.slope = self._graph.detach()

    def product(self, v: Tensor) -> Tensor:
        """Hessian times v (n,)."""
        self._work.products += 1
        if not self._graph.requires_grad:
            return torch.zeros_like(v)
        (found,) = torch.autograd.grad(
            self._graph, self.x, v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return found

    def products(self, vs: Tensor) -> Tensor:
        """Hessian times each row of vs (k, n), in one walk."""
        self._work.products += len(vs)
        (found,) = torch.autograd.grad(
            self._graph, self.x, vs, retain_graph=True, is_grads_batched=True
        )
        return found

    def cross(self, q: Tensor) -> Tensor:
        """The derivative in t (m,) of the inner gradient times q (n,)."""
        self._work.crosses += 1
        if not self._graph.requires_grad:
            return torch.zeros_like(self.t)
        (found,) = torch.autograd.grad(
            self._graph, self.t, q, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return found
