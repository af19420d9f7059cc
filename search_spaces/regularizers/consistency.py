"""Consistency: another view of an example is to be predicted as this one is; the strength is the
weight of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, spread
from search_spaces.regularizers._confidence import precise, reached
from search_spaces.regularizers._nearby import like

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

LEAST_TEMPERATURE = 1e-4  # below it a distribution over classes is a single class


def disagreement(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """consistency * KL(q || p') where max p reaches `consistency_threshold`, else zero.

    p is the prediction on the batch, without gradient; p' that on a new view of it, with new draws
    of augmentation and dropout; q is p sharpened, proportional to p^(1 / T) with T the
    `consistency_temperature`. T = 0 is FixMatch (Sohn et al. 2020, equation 4: the likeliest class
    is the label), T = 0.4 UDA (Xie et al. 2020), T = 1 with threshold 0 the plain consistency of
    Laine and Aila (2017) with a divergence for their squared distance. A weight that ramps up, as
    there, is a schedule of the knob.
    """
    from torch.nn import functional

    logits = precise(p.logits("consistency"))
    counts = reached(logits, h["consistency_threshold"])
    temperature = like(spread(h["consistency_temperature"], logits), logits)
    sharp = logits / temperature.clamp(min=LEAST_TEMPERATURE)
    label = functional.log_softmax(sharp, dim=1)
    elsewhere = functional.log_softmax(p.again(p.view().inputs), dim=1)
    apart = (label.exp() * (label - elsewhere)).sum(dim=1)
    return spread(h["consistency"], apart) * counts * apart


REGULARIZER = Regularizer(
    knobs={
        "consistency": Float(
            0.1, 10.0, scale="log", start=1.0, off=0.0, limits=(0.0, float("inf"))
        ),
        "consistency_threshold": Float(0.0, 0.99, start=0.95, limits=(0.0, 1.0)),
        "consistency_temperature": Float(0.0, 1.0, start=0.0, limits=(0.0, float("inf"))),
    },
    loss_output=disagreement,
    differentiable=True,
    surrogate=True,
    whole=True,
    note="classification only; one more pass a step; with augmentation or dropout in the space",
)
