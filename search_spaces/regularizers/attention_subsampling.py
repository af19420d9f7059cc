"""Attention subsampling: each query looks at a random part of the keys; the strength is the share
that is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def subsample(shape: tuple[int, int, int], h: Strengths, rng: torch.Generator) -> Tensor:
    """Which of S keys each of L queries may look at, (B, L, S): those whose draw reaches the share.

    Where there are as many keys as queries, each keeps its own place; otherwise the key with the
    largest draw is kept. (The information pathways hypothesis, Hussain, Zaki and Subramanian 2023:
    subsampled attention trains an ensemble of sparse models. [From memory: they keep one random
    subset of a sequence, or of a window; here each query has a subset of its own.]) Heads share it.
    """
    import torch

    draws = torch.rand(shape, generator=rng, device=rng.device)
    hidden = h["attention_subsampling"]
    if isinstance(hidden, torch.Tensor):
        draws = draws.to(hidden.device)
    _, queries, keys = shape
    if queries == keys:
        always = torch.eye(keys, dtype=torch.bool, device=draws.device)
    else:
        always = draws == draws.amax(dim=2, keepdim=True)
    return (draws >= spread(hidden, draws)) | always


REGULARIZER = Regularizer(
    knobs={
        "attention_subsampling": Float(0.0, 0.9, start=0.1, off=0.0, limits=(0.0, 1.0)),
    },
    attention=subsample,
    note="acts at nn.MultiheadAttention, also within nn.TransformerEncoder",
)
