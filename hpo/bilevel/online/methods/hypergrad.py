"""Implicit differentiation on the way: a few products for the linear system, from where the last
one ended.

Lorraine, Vicol and Duvenaud (AISTATS 2020); Luketina et al. (ICML 2016) for `identity`; Hataya and
Yamada (AISTATS 2023) for `nystrom`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpo.bilevel.implicit.inverse import cg, identity, neumann, nystrom
from hpo.bilevel.implicit.inverse._solved import Solved
from hpo.bilevel.online.methods._method import Found, Method
from hpo.bilevel.online.scaled import Scaled, steepest
from hpo.bilevel.online.view import State, View

Inverse = Literal["cg", "neumann", "nystrom", "identity"]
_SHARE = 1e-3  # of the right-hand side, that need not be solved further


@dataclass(frozen=True)
class Hypergrad(Method):
    """inverse: how the linear system is solved, with at most so many `products`."""

    inverse: Inverse = "cg"
    products: int = 5

    def gradient(self, view: View, t: Tensor, state: State) -> Found:
        curved = view.curved(t)
        outer, direct = view.outer(view.x, t)
        matrix = Scaled(view, curved)
        b = matrix.root * outer
        size = float(b.norm())
        if not math.isfinite(size):
            return Found(torch.full_like(direct, torch.nan))
        solved, known = self._solved(view, matrix, b, state)
        q = matrix.root * solved.q
        return Found(
            direct - curved.cross(q),
            {**known, "q": solved.q},
            residual=solved.left / size if size > 0 else 0.0,
        )

    def _solved(
        self, view: View, matrix: Scaled, b: Tensor, state: State
    ) -> tuple[Solved, dict[str, Tensor]]:
        start, enough = state.get("q"), _SHARE * float(b.norm())
        if self.inverse == "identity":
            return identity.solve(matrix, b, enough), {}
        if self.inverse == "nystrom":
            return nystrom.solve(matrix, b, enough, rank=self.products, shift=view.damping), {}
        if self.inverse == "cg":
            return cg.solve(matrix, b, enough, start=start, limit=self.products), {}
        steep, known = steepest(matrix, state)
        found = neumann.solve(matrix, b, enough, start=start, step=1 / steep, limit=self.products)
        if not bool(torch.isfinite(found.q).all()):  # the step was too long: begin anew
            return identity.solve(matrix, b, enough, step=1 / steep), known
        return found, known
