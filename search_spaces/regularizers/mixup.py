"""Mixup: every example is blended with another one, targets included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strength, Strengths, real, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEAST_ALPHA = 1e-6  # below it no draw is distinguishable from no mixing


def mix(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """share * example + (1 - share) * another one of the batch (Zhang et al. 2018).

    The share is drawn for each example from Beta(alpha, alpha), folded to [1/2, 1] so that the
    example itself prevails: swapping the two roles is the same blend for the pair, and alpha 0
    becomes the identity.
    """
    import torch

    inputs = real(batch.inputs, "mixup of the inputs")
    targets = real(batch.targets, "mixup of the targets (class indices: make them one-hot first)")
    other = torch.randperm(len(inputs), generator=rng, device=rng.device).to(inputs.device)
    share = folded_beta(h["mixup"], *uniform((2, len(inputs)), inputs, rng))
    return Batch(_blend(inputs, inputs[other], share), _blend(targets, targets[other], share))


def folded_beta(alpha: Strength, radius: Tensor, angle: Tensor) -> Tensor:
    """max(X, 1 - X) of X ~ Beta(alpha, alpha), as a smooth function of two uniform draws.

    With q = radius^(1/alpha) and c = cos(2 pi angle), Bailey's (1994) polar form of Student's t
    with 2 alpha degrees of freedom, t = c sqrt(2 alpha (1/q - 1)), and the identity
    X = (1 + t / sqrt(2 alpha + t^2)) / 2 give |2 X - 1|^2 = c^2 (1-q) / (c^2 (1-q) + q). Nothing
    is rejected, so the draws do not depend on alpha and the share has a gradient in it.
    """
    import torch

    strength = torch.as_tensor(spread(alpha, radius), dtype=radius.dtype, device=radius.device)
    log_q = radius.clamp(min=torch.finfo(radius.dtype).tiny).log() / strength.clamp(LEAST_ALPHA)
    spare = (2 * torch.pi * angle).cos().square() * -torch.expm1(log_q)
    share = 0.5 + 0.5 * (spare / (spare + log_q.exp())).sqrt()
    return torch.where(strength > 0, share, torch.ones_like(share))


def _blend(tensor: Tensor, other: Tensor, share: Tensor) -> Tensor:
    weight = spread(share.to(tensor.dtype), tensor)
    return weight * tensor + (1 - weight) * other


REGULARIZER = Regularizer(
    knobs={"mixup": Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, float("inf")))},
    batch=mix,
    differentiable=True,
    stage="mix",
    note="the knob is alpha of the Beta distribution; 0 is off, 1 mixes uniformly",
)
