"""The linear system behind a hypergradient, as training feels it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpo.bilevel.online.view import Curved, View

_FIRST, _CAUTION = 8, 1.1

State = Mapping[str, Tensor]


class Scaled:
    """S H S + damping I for S the square root of a view's scale: symmetric, and as well conditioned
    as the optimizer makes training."""

    def __init__(self, view: View, curved: Curved) -> None:
        self._curved, self._damping = curved, view.damping
        self.root = view.scale.sqrt()

    def product(self, v: Tensor) -> Tensor:
        return self.root * self._curved.product(self.root * v) + self._damping * v

    def products(self, vs: Tensor) -> Tensor:
        return self.root * self._curved.products(self.root * vs) + self._damping * vs


def steepest(matrix: Scaled, known: State) -> tuple[float, dict[str, Tensor]]:
    """The greatest eigenvalue, approached from below by a product at each call, with a tenth added;
    and what the next call must know."""
    u = known.get("steep")
    if u is None:
        rng = torch.Generator(matrix.root.device).manual_seed(0)
        u = torch.randn(matrix.root.shape, generator=rng, dtype=matrix.root.dtype,
                        device=matrix.root.device)  # fmt: skip
        for _ in range(_FIRST - 1):
            u = matrix.product(u / u.norm().clamp(min=1e-30))
    u = matrix.product(u / u.norm().clamp(min=1e-30))
    return _CAUTION * max(float(u.norm()), 1e-30), {"steep": u}
