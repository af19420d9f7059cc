"""Learning without forgetting: predictions stay near those of the model as it began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.frozen import Start, divergence
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB, TEMPERATURE = "lwf", "lwf_temperature"


def stay(start: Start, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """lwf * T^2 KL(start at T || model at T) of each example, shape (B,).

    (Li and Hoiem 2018, whose cross-entropy has the same gradient; T^2 as Hinton et
    al. 2015 scale it.) Start is a copy of the model with the weights the run begins with: it is of
    use where these were trained before, on an earlier task.
    """
    logits = seen.logits(KNOB)
    apart = divergence(start.taught(seen.batch, KNOB), logits, h[TEMPERATURE], KNOB)
    return spread(h[KNOB], apart) * apart


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(1e-3, 1e3, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        TEMPERATURE: Float(1.0, 10.0, scale="log", start=2.0, limits=(0.0, float("inf"))),
    },
    loss_output=stay,
    remember=Start,
    differentiable=True,
    note="classification only, for a model that begins with trained weights",
)
