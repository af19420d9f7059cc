"""How sure of its class a model is of each example, and which examples that lets count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.regularizer import Strength, spread
from search_spaces.regularizers._nearby import like

if TYPE_CHECKING:
    from torch import Tensor

_WIDTH = 0.02  # of the step whose slope stands for that of a threshold


def precise(logits: Tensor) -> Tensor:
    """Logits without gradient, in single precision at least."""
    import torch

    fixed = logits.detach()
    return fixed if fixed.dtype == torch.float64 else fixed.float()


def reached(logits: Tensor, threshold: Strength) -> Tensor:
    """1 for each example whose likeliest class has this probability, 0 for the others, (B,).

    A step has no slope; in the threshold it is given that of a logistic step of small width. Its
    mean over examples is a kernel estimate of how the mean moves with the threshold.
    """
    import torch

    confidence = logits.softmax(dim=1).amax(dim=1)
    level = like(spread(threshold, confidence), confidence)
    soft = torch.sigmoid((confidence - level) / _WIDTH)
    return (confidence >= level).to(soft) + (soft - soft.detach())
