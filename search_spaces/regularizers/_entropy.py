"""The entropy of rows of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """-sum p log p over the last dimension, in nats; its gradient is finite where p is zero."""
    import torch

    least = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp(min=least).log()).sum(-1)
