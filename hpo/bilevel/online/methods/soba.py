"""SOBA: parameters, linear system and knobs take one step at the same time, from the same rows.

Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic and
global variance reduction algorithms (NeurIPS 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.bilevel.online.methods._method import Found, State
from hpo.bilevel.online.scaled import Scaled, steepest
from hpo.bilevel.online.view import View


@dataclass(frozen=True)
class Soba:
    every: int = 1
    simultaneous: bool = True
    follows: bool = False

    def learn(self, view: View, t: Tensor, state: State) -> State:
        return state

    def gradient(self, view: View, t: Tensor, state: State) -> Found:
        curved = view.curved(t)
        outer, direct = view.outer(view.x, t)
        matrix = Scaled(view, curved)
        steep, known = steepest(matrix, state)
        b = matrix.root * outer
        q = state.get("q", torch.zeros_like(b))
        left = matrix.product(q) - b
        gradient = direct - curved.cross(matrix.root * q)
        residual = float(left.norm() / b.norm().clamp(min=1e-30))
        return Found(gradient, {**known, "q": q - left / steep}, curved.slope, residual)
