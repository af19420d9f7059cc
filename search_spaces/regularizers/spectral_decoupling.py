"""Spectral decoupling: half the squared length of the logits, in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB = "spectral_decoupling"


def shrink(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength / 2 * |outputs|^2 of each example, shape (B,) (Pezeshki et al. 2021).

    In place of weight decay it lets a network that cross-entropy starves learn more than its
    strongest feature. It holds logits near zero, one (B, 1) as well as C of them.
    """
    length = seen.outputs.reshape(len(seen.outputs), -1).square().sum(1)
    return 0.5 * spread(h[KNOB], length) * length


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(1e-4, 1.0, scale="log", start=1e-3, off=0.0, limits=(0.0, float("inf"))),
    },
    loss_output=shrink,
    differentiable=True,
    note="meant for logits; of a regression it would draw the predictions to zero",
)
