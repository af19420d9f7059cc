"""Entropy of predictions: positive strengths reward it, negative ones reward confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread
from search_spaces.regularizers._entropy import entropy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB = "prediction_entropy"


def reward(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """-strength * H(softmax(outputs)) of each example, shape (B,).

    Above zero it is the confidence penalty of Pereyra et al. (2017), below zero the
    entropy minimisation of Grandvalet and Bengio (2005). One knob has both signs, on a linear
    scale, so that a search can find which helps.
    """
    spread_out = entropy(seen.logits(KNOB).softmax(1))
    return -spread(h[KNOB], spread_out) * spread_out


REGULARIZER = Regularizer(
    knobs={KNOB: Float(-1.0, 1.0, start=0.05, off=0.0)},
    loss_output=reward,
    differentiable=True,
    note="classification only; above 0 it penalizes confidence, below 0 uncertainty",
)
