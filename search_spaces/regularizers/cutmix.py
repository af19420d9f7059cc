"""CutMix: a box of each image shows another one, and the targets are blended by area."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import covered, images
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, real, spread, uniform
from search_spaces.regularizers.mixup import folded_beta

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def paste(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """A box with a share 1 - s of the area, about a uniformly drawn place, comes from another image
    of the batch; the targets are blended by the area that it really has (Yun et al. 2019).

    s is drawn for each image from Beta(alpha, alpha), folded to [1/2, 1] as in mixup, so that alpha
    0 is the identity and an image keeps at least half of itself. A share `cutmix_probability` of
    the images gets a box. A pixel that it covers in part is blended in part: the result is
    continuous in alpha and has a gradient in it.
    """
    import torch

    inputs = images(batch.inputs, "cutmix")
    targets = real(batch.targets, "cutmix of the targets (class indices: make them one-hot first)")
    rows, (height, width) = len(inputs), inputs.shape[2:]
    other = torch.randperm(rows, generator=rng, device=rng.device).to(inputs.device)
    radius, angle, down, right, coin = uniform((5, rows), inputs, rng)
    kept = folded_beta(h["cutmix"], radius, angle)
    # The root has no slope at zero, where there is no box either.
    least = torch.finfo(kept.dtype).tiny
    side = torch.where(kept < 1, (1 - kept).clamp(min=least).sqrt(), torch.zeros_like(kept))
    side = side * (coin < spread(h["cutmix_probability"], coin))
    tall = covered(down * height, side * height, height)[:, :, None]
    wide = covered(right * width, side * width, width)[:, None, :]
    return pasted(Batch(inputs, targets), other, tall * wide)


def pasted(batch: Batch, other: Tensor, mask: Tensor) -> Batch:
    """The batch with as much of the images `other` as the mask (B, H, W) says, targets by area."""
    inputs, targets = batch
    part = mask[:, None].to(inputs.dtype)
    area = spread(mask.mean((1, 2)).to(targets.dtype), targets)
    return Batch(
        inputs + part * (inputs[other] - inputs), targets + area * (targets[other] - targets)
    )


REGULARIZER = Regularizer(
    knobs={
        "cutmix": Float(0.0, 1.0, start=0.5, off=0.0, limits=(0.0, float("inf"))),
        "cutmix_probability": Float(0.0, 1.0, start=0.5, limits=(0.0, 1.0)),
    },
    batch=paste,
    stage="mix",
    note="images only; alpha of the Beta distribution, and the share of images that get a box",
)
