"""SOBA: parameters, linear system and knobs take one step at the same time, from the same rows.

Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic and
global variance reduction algorithms (NeurIPS 2022).
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
class Soba(Method):
    every: ClassVar[int] = 1
    simultaneous: ClassVar[bool] = True

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
