"""Attentive CutMix: the cells of another image that the model looks at most are pasted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search_spaces.augmentation.images import images
from search_spaces.domains import Float, Int
from search_spaces.errors import HpoError
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch, Regularizer, Strengths, real, spread, uniform
from search_spaces.regularizers.cutmix import pasted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.passes import Beginning

GRID = 7  # cells a side


def model_of(beginning: Beginning) -> nn.Module:
    """The live model of the run, which the attention is taken from."""
    return beginning.model


def paste(model: nn.Module, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """The `attentive_cutmix` cells of most attention of another image, out of 7 x 7, in the places
    where they are there; the targets are blended by area (Walawalkar et al. 2020).

    Attention is the mean size of what the last convolution of the model in training puts out, as it
    is at this step and without a gradient; the paper takes it from a network trained beforehand. A
    share `attentive_cutmix_probability` of the images is pasted into. A number of cells between
    whole ones counts as the nearest.
    """
    import torch

    inputs = images(batch.inputs, "attentive_cutmix")
    purpose = "attentive_cutmix of the targets (class indices: make them one-hot first)"
    targets = real(batch.targets, purpose)
    rows, (height, width) = len(inputs), inputs.shape[2:]
    other = torch.randperm(rows, generator=rng, device=rng.device).to(inputs.device)
    (coin,) = uniform((1, rows), inputs, rng)
    number = torch.as_tensor(spread(h["attentive_cutmix"], coin), device=coin.device).round()
    number = number * (coin < spread(h["attentive_cutmix_probability"], coin))
    tall, wide = min(GRID, height), min(GRID, width)
    seen = _attention(model, inputs, (tall, wide))[other].flatten(1)
    places = seen.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    taken = (places < number[:, None]).reshape(rows, tall, wide)
    row = torch.arange(height, device=inputs.device) * tall // height
    column = torch.arange(width, device=inputs.device) * wide // width
    return pasted(Batch(inputs, targets), other, taken[:, row][:, :, column].to(coin))


def _attention(model: nn.Module, inputs: Tensor, cells: tuple[int, int]) -> Tensor:
    """How strongly the last convolution answers in each cell, (B, tall, wide)."""
    import torch
    from torch import nn
    from torch.nn import functional

    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        kept[:] = [output]

    hooks = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad(), evaluating(model):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not kept:
        raise HpoError(
            "attentive_cutmix looks at what a convolution puts out, and this model has none",
            hint="use cutmix, or a model with nn.Conv2d layers",
            code="unsuited-model",
        )
    return functional.adaptive_avg_pool2d(kept[0].abs().mean(1, keepdim=True), cells)[:, 0]


REGULARIZER = Regularizer(
    knobs={
        "attentive_cutmix": Int(1, 15, start=6, off=0, limits=(0, GRID * GRID)),
        "attentive_cutmix_probability": Float(0.0, 1.0, start=0.5, limits=(0.0, 1.0)),
    },
    batch=paste,
    remember=model_of,
    stage="mix",
    note="images and models with convolutions; cells of 49, and the share of images they go into",
)
