"""Entropy of the mean prediction: a batch should use all classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, pooled
from search_spaces.regularizers._entropy import entropy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB, TEMPERATURE = "mean_entropy", "mean_entropy_temperature"


def reward(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """-strength * H(mean over the batch of softmax(outputs / T)), one number.

    (Wen et al. 2023, against predictions that favour some classes.) The entropy is
    largest where the classes are equally frequent: it fits data in which they are.
    """
    mean = (seen.logits(KNOB) / pooled(h[TEMPERATURE])).softmax(1).mean(0)
    return -pooled(h[KNOB]) * entropy(mean)


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(1e-3, 4.0, scale="log", start=0.05, off=0.0, limits=(0.0, float("inf"))),
        TEMPERATURE: Float(0.1, 10.0, scale="log", start=1.0, limits=(0.0, float("inf"))),
    },
    loss_batch=reward,
    differentiable=True,
    note="classification with classes of like frequency",
)
