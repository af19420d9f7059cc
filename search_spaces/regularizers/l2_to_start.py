"""L2 to the start: the squared distance of the weights from those the run began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import precise, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor


def penalty(start: Mapping[str, Tensor], parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength / 2 * sum of (w - w_start)^2 over all trained parameters, vectors too.

    L2-SP (Li et al. 2018) for fine-tuning and for tasks one after the other, where it keeps what
    the start has learnt; from a random start it keeps the model near that.
    """
    terms = [
        0.5 * (precise(parameters[name]) - precise(begun)).square().sum()
        for name, begun in start.items()
        if name in parameters  # with a strength for each layer: the parameters of one
    ]
    return scaled_sum(h["l2_to_start"], terms)


REGULARIZER = Regularizer(
    knobs={
        "l2_to_start": Float(
            1e-4, 10.0, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))
        )
    },
    remember=lambda beginning: beginning.weights(),
    penalty=penalty,
    differentiable=True,
    note="for runs that begin from trained weights; weights are free where the loss needs it least",
)
