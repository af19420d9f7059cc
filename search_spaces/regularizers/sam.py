"""Sharpness-aware minimization: the gradient is taken where the loss is nearly worst nearby."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._ascent import climbed

if TYPE_CHECKING:
    from torch import Tensor


def climb(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], h: Strengths
) -> Mapping[str, Tensor]:
    """w + strength * g / |g|, with |g| the length of the whole gradient (Foret et al. 2021, eq. 2).

    The strength is rho, a distance in weight space. Where the gradient is zero w stays.
    """
    return climbed(parameters, gradients, h["sam"])


REGULARIZER = Regularizer(
    knobs={"sam": Float(0.01, 1.0, scale="log", start=0.05, off=0.0, limits=(0.0, float("inf")))},
    ascent=climb,
    note="the knob is rho; takes every gradient twice",
)
