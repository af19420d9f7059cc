"""F2SA: first derivatives only. A second set of parameters is trained beside, pulled towards a
lower outer loss, and the knobs see what tells the two apart.

With y the minimizer of inner + outer / s, the gradient of F is D_t outer(y) + s (D_t inner(y) -
D_t inner(x)), up to an error of order 1/s. Kwon, Kwon, Wright and Nowak, A fully first-order method
for stochastic bilevel optimization (ICML 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.bilevel.online.methods._method import Found, State
from hpo.bilevel.online.view import View


@dataclass(frozen=True)
class F2sa:
    """penalty: s. leak: the share by which y is drawn back to x at each step, so that noise does
    not carry it away; directions softer than that are damped."""

    penalty: float = 10.0
    leak: float = 0.02
    every: int = 10
    simultaneous: bool = False

    def learn(self, view: View, t: Tensor, state: State) -> State:
        """Steps y as training has stepped x: the same rows, the same draws."""
        y = state.get("y", view.x)
        velocity = state.get("velocity", torch.zeros_like(y))
        pulled = view.inner(y, t)[0] + view.outer(y, t)[0] / self.penalty
        step, velocity = view.stride(y, pulled, velocity, t)
        return {"y": y + step + self.leak * (view.x - y), "velocity": velocity}

    def gradient(self, view: View, t: Tensor, state: State) -> Found:
        y = state.get("y", view.x)
        direct = view.outer(y, t)[1]
        apart = view.inner(y, t)[1] - view.inner(view.x, t)[1]
        return Found(direct + self.penalty * apart, state)
