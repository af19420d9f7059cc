"""A relaxed choice of one among many of which only two take part."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def pair(scores: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """The places (B, 2) of the two largest scores (B, n), n > 2, and their shares (B, 2).

    With y = softmax(scores / temperature) and its third largest entry y3 the shares are
    proportional to y1 - y3 and y2 - y3. An entry that leaves the two largest has a share of zero
    when it does, so the shares of all n are continuous in the scores; plain truncation would jump
    there, and a gradient under fixed draws would miss the jumps. At temperature to zero the largest
    takes all, as in the Gumbel-softmax (Jang et al. 2017; Maddison et al. 2017).
    """
    import torch

    top = scores.topk(3, dim=1)
    # Relative to the largest, so that no exponential overflows.
    relative = ((top.values - top.values[:, :1]) / temperature).exp()
    surplus = relative[:, :2] - relative[:, 2:]
    total = surplus.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return top.indices[:, :2], surplus / total
