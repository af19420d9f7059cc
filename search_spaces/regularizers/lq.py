"""Lq penalty: a smoothed sum of |w|^q, in the loss; below q = 1 it is sparser than L1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, pooled
from search_spaces.regularizers._matrices import matrices, precise, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor

SMOOTH = 1e-3  # weights well below it count as zero: there the penalty is a parabola


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum of (w^2 + e^2)^(q/2) - e^q over matrices and filters, q = `lq_power`.

    The negative log density of a generalised Gaussian of shape q, so a maximum a posteriori fit
    under that prior ("It Takes a Good Model to Train a Good Model", 2025). e = 1e-3 keeps the slope
    finite at zero for every q > 0; q = 1 is L1 but for that, q = 2 exactly the sum of squares
    (twice what l2 adds). The gradient in q exists as well: the shape can be tuned like the
    strength. Below q = 1 it approaches the count of weights that are not zero. (The smoothing is
    this project's choice.)
    """
    power = pooled(h["lq_power"])
    terms = [
        ((precise(weight).square() + SMOOTH**2) ** (power / 2) - SMOOTH**power).sum()
        for weight in matrices(parameters).values()
    ]
    return scaled_sum(h["lq"], terms)


REGULARIZER = Regularizer(
    knobs={
        "lq": Float(1e-7, 1e-2, scale="log", start=1e-5, off=0.0, limits=(0.0, float("inf"))),
        "lq_power": Float(0.3, 2.0, start=1.0, limits=(1e-3, float("inf"))),
    },
    penalty=penalty,
    differentiable=True,
    note="coupled; lq_power is the exponent: 2 is L2, 1 is L1, below 1 sparser still",
)
