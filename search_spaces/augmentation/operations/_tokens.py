"""Rows of tokens (B, T): some leave, the others close up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.vocabulary import PAD

if TYPE_CHECKING:
    from torch import Tensor


def without(tokens: Tensor, gone: Tensor) -> Tensor:
    """The tokens less those that are `gone`, closed up towards where a row begins, then padding.

    A row that begins with padding is filled up from the left: it closes up towards its end.
    """
    import torch

    from_left = tokens[:, :1] == PAD
    key = torch.where(from_left, -1, 1) * gone.long()
    order = key.argsort(dim=1, stable=True)
    return tokens.masked_fill(gone, PAD).gather(1, order)
