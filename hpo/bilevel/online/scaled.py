"""The linear system behind a hypergradient, as training feels it."""

from __future__ import annotations

from torch import Tensor

from hpo.bilevel.implicit.inverse.power import drawn, iterated
from hpo.bilevel.online.view import Curved, State, View

_FIRST, _CAUTION = 8, 1.1


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
    begun, times = (drawn(matrix.root), _FIRST) if u is None else (u, 1)
    size, u = iterated(matrix.product, begun, times)
    return _CAUTION * max(size, 1e-30), {"steep": u}
