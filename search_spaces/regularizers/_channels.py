"""Which dimension of the activations at a dropout site counts its units, or its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def channel_dimension(x: Tensor, site: nn.Module) -> int:
    """The dimension of the features: 1 at `nn.Dropout1d` to `3d` and where there are (B, D) or
    (B, C, H, W) numbers, the last where there are (B, T, D), as in a transformer."""
    from torch import nn

    if isinstance(site, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d) or x.ndim != 3:
        return min(1, x.ndim - 1)
    return 2


def by_feature(x: Tensor, site: nn.Module) -> list[int]:
    """The shape of one draw for each channel of each example."""
    shape = [1] * x.ndim
    shape[0] = x.shape[0]
    place = channel_dimension(x, site)
    shape[place] = x.shape[place]
    return shape
