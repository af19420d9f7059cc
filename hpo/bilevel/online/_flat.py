"""Parameters of a network as one vector, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All the numbers, (n,)."""
    return torch.cat([one.reshape(-1) for one in tensors])


def like(x: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The numbers x (n,) in the shapes of these tensors."""
    parts = torch.split(x, [one.numel() for one in tensors])
    return [part.view_as(one) for part, one in zip(parts, tensors, strict=True)]
