"""F2SA: first derivatives only. A second set of parameters is trained beside, pulled towards a
lower outer loss, and the knobs see what tells the two apart.

What is followed is the distance between the two: without a pull it stays zero, whatever training
does meanwhile.

With y the minimizer of inner + outer / s, the gradient of F is D_t outer(y) + s (D_t inner(y) -
D_t inner(x)), up to an error of order 1/s. Kwon, Kwon, Wright and Nowak, A fully first-order method
for stochastic bilevel optimization (ICML 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpo.bilevel.online.methods._method import Found, Method
from hpo.bilevel.online.view import State, View


@dataclass(frozen=True)
class F2sa(Method):
    """penalty: s. leak: the share by which y is drawn back to x at each step, so that noise does
    not carry it away; directions softer than that are damped."""

    penalty: float = 10.0
    leak: float = 0.02
    follows: ClassVar[bool] = True

    def learn(self, view: View, t: Tensor, state: State) -> State:
        """Steps y - x by what sets the slopes at the two apart: the same rows, the same draws."""
        x = view.x
        apart = state.get("apart", torch.zeros_like(x))
        velocity = state.get("velocity", torch.zeros_like(x))
        pulled = view.inner(x + apart, t)[0] + view.outer(x + apart, t)[0] / self.penalty
        step, velocity = view.stride(apart, pulled - view.inner(x, t)[0], velocity, t)
        return {"apart": (1 - self.leak) * apart + step, "velocity": velocity}

    def gradient(self, view: View, t: Tensor, state: State) -> Found:
        x = view.x
        y = x + state.get("apart", torch.zeros_like(x))
        direct = view.outer(y, t)[1]
        apart = view.inner(y, t)[1] - view.inner(x, t)[1]
        return Found(direct + self.penalty * apart, state)
