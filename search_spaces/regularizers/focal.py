"""Focal loss: examples that are learnt already count less; the strength is gamma."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    from torch import Tensor


def focus(losses: Tensor, h: Strengths) -> Tensor:
    """losses * (1 - p)^gamma with p = exp(-loss) (Lin et al. 2017), shape (B,).

    For cross-entropy with class targets p is the probability of the right class; with soft
    targets, and for other losses, it is what that loss would stand for. A loss below zero has
    p above 1 and counts as learnt.
    """
    import torch

    # The least number keeps the slope of base^gamma finite where the loss is zero.
    base = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
    return losses * base ** spread(h["focal"], losses)


REGULARIZER = Regularizer(
    knobs={"focal": Float(0.0, 5.0, start=0.5, off=0.0, limits=(0.0, float("inf")))},
    loss_example=focus,
    differentiable=True,
    note="the knob is gamma; meant for cross-entropy, needs a loss for each example",
)
