"""AmIGO: the linear system is followed by gradient steps on fresh rows, from where it was.

Arbel and Mairal, Amortized implicit differentiation for stochastic bilevel optimization (ICLR
2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpo.bilevel.online.methods._method import Found, Method
from hpo.bilevel.online.scaled import Scaled, steepest
from hpo.bilevel.online.view import State, View


@dataclass(frozen=True)
class Amigo(Method):
    follows: ClassVar[bool] = True

    def learn(self, view: View, t: Tensor, state: State) -> State:
        """A gradient step on q'Hq / 2 - b'q."""
        matrix = Scaled(view, view.curved(t))
        steep, known = steepest(matrix, state)
        b = matrix.root * view.outer(view.x, t)[0]
        q = state.get("q", torch.zeros_like(b))
        return {**known, "q": q - (matrix.product(q) - b) / steep}

    def gradient(self, view: View, t: Tensor, state: State) -> Found:
        curved = view.curved(t)
        direct = view.outer(view.x, t)[1]
        q = state.get("q")
        if q is None:
            return Found(direct, state)
        return Found(direct - curved.cross(view.scale.sqrt() * q), state)
