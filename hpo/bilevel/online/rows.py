"""A bilevel problem under stochastic training: a few rows of its data at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.inverse.power import iterated
from hpo.bilevel.implicit.problem import Bilevel
from objectives.training.randomness import derived_seed

MOMENTUM = 0.9


class RowsView:
    """The view of a problem of which each step sees `batch` rows; all, where it tells of none.

    x: where the parameters are; `rate` the learning rate of the step, `sum` of all so far. A step
    is Nesterov's, with momentum 0.9.
    """

    def __init__(self, problem: Bilevel, x: Tensor, batch: int, seed: int) -> None:
        self.problem, self.x = problem, x
        self.rate, self.sum = 0.0, 0.0
        self._batch, self._seed = batch, seed
        self._rows: dict[str, Tensor | None] = {"inner": None, "outer": None}

    @property
    def scale(self) -> Tensor:
        return torch.ones_like(self.x)

    @property
    def damping(self) -> float:
        return 1 / self.sum if self.sum > 0 else 0.0

    def at(self, step: int) -> None:
        """Moves to the rows of a training step: a function of seed and step alone."""
        for which, total in (self.problem.row_counts or {}).items():
            if total > self._batch:
                seed = derived_seed(self._seed, f"{which} rows {step}")
                rng = torch.Generator().manual_seed(seed)
                picked = torch.randperm(total, generator=rng)[: self._batch]
                self._rows[which] = picked.to(self.x.device)

    def look(self, rows: Mapping[str, Tensor | None]) -> None:
        """Moves to rows of the caller's choice."""
        self._rows.update(rows)

    def curved(self, t: Tensor) -> Curvature:
        return Curvature(self.problem, self.x, t, self._rows["inner"])

    def inner(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
        self.problem.work.gradients += 1
        return _slopes(self.problem.inner(x, t, self._rows["inner"]), x, t)

    def outer(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
        self.problem.work.outer += 1
        return _slopes(self.problem.outer(x, t, self._rows["outer"]), x, t)

    def stride(
        self, x: Tensor, gradient: Tensor, velocity: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        velocity = MOMENTUM * velocity - self.rate * gradient
        return MOMENTUM * velocity - self.rate * gradient, velocity


def steepness(view: RowsView, t: Tensor, u: Tensor, times: int) -> tuple[float, Tensor]:
    """The greatest curvature of the inner loss at x, and its direction, by power iteration on
    differences of gradients: no second derivative is taken."""
    fine = torch.finfo(view.x.dtype).eps ** 0.5
    reach = fine * (1 + float(view.x.norm())) / math.sqrt(len(view.x))
    here = view.inner(view.x, t)[0]
    return iterated(lambda v: (view.inner(view.x + reach * v, t)[0] - here) / reach, u, times)


def _slopes(loss: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    if not loss.requires_grad:
        return torch.zeros_like(x), torch.zeros_like(t)
    found = torch.autograd.grad(loss, (x, t), allow_unused=True, materialize_grads=True)
    return found[0], found[1]
