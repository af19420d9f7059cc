"""What every solver of H q = b gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Operator(Protocol):
    """A symmetric matrix by its products; `Curvature` is one."""

    def product(self, v: Tensor) -> Tensor: ...

    def products(self, vs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Solved:
    """An approximate solution q (n,) of (H + damping I) q = b.

    residual: b minus that matrix times q; None where a solver does not know it. iterations:
    products with H it took. least, most: estimates of the extreme eigenvalues of H, or of what the
    preconditioner makes of it; 0 if unknown. damping: what had to be added to H because a direction
    of negative curvature was met; 0 at a minimum.
    """

    q: Tensor
    residual: Tensor | None
    iterations: int
    least: float = 0.0
    most: float = 0.0
    damping: float = 0.0

    @property
    def left(self) -> float:
        """The size of the residual; nan if it is not known."""
        return math.nan if self.residual is None else float(self.residual.norm())
