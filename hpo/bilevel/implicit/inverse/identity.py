"""No inverse at all: H is taken for a multiple of the identity (T1-T2).

Luketina, Berglund, Greff and Raiko (ICML 2016). The error does not vanish; often the sign is right.
"""

from __future__ import annotations

from torch import Tensor

from hpo.bilevel.implicit.inverse._solved import Operator, Solved


def solve(
    matrix: Operator,
    b: Tensor,
    tolerance: float,
    *,
    start: Tensor | None = None,
    step: float = 1.0,
) -> Solved:
    """q = step b, without a product; the residual is not known."""
    return Solved(step * b, None, 0)
