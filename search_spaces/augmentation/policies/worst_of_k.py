"""Glitter: of several augmentations of an image, the one that the model does worst on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.judging import Judge
from search_spaces.augmentation.policies import _each
from search_spaces.augmentation.policies.randaugment import FULL
from search_spaces.augmentation.policies.randaugment import augment as randaugment
from search_spaces.domains import Float, Int
from search_spaces.regularizer import Batch, Regularizer, Strengths

if TYPE_CHECKING:
    import torch

MOST = 16


def augment(judge: Judge, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each image as the one of its `worst_of_k.candidates` draws from RandAugment that has the
    largest loss under the model as it is now (Kamalloo et al. 2022, Glitter, with the pool drawn
    anew at each step and one of it kept).

    One forward pass, without dropout and gradient, for each candidate beyond the first.
    """
    import torch

    inputs = images(batch.inputs, "worst_of_k")
    strengths = {
        "randaugment.magnitude": h["worst_of_k"],
        "randaugment.operations": h["worst_of_k.operations"],
    }
    own = _each.children(rng, MOST)
    many = _each.per_row(h["worst_of_k.candidates"], inputs).round().clamp(1, MOST)
    pool = int(many.max())
    tried = [randaugment(judge.values, batch, strengths, draws) for draws in own[:pool]]
    if pool == 1:
        return tried[0]
    with torch.no_grad():
        losses = torch.stack([judge.losses(candidate, "worst_of_k") for candidate in tried])
    spare = torch.arange(pool, device=many.device)[:, None] >= many
    worst = losses.masked_fill(spare.to(losses.device), float("-inf")).argmax(0)
    rows = torch.arange(len(inputs), device=worst.device)
    stacked = torch.stack([candidate.inputs for candidate in tried])
    return batch._replace(inputs=stacked[worst, rows])


POLICY = Regularizer(
    knobs={
        "worst_of_k": Float(0.0, FULL, start=9.0, off=0.0, limits=(0.0, FULL)),
        "worst_of_k.candidates": Int(2, 8, "log", start=3, limits=(1, MOST)),
        "worst_of_k.operations": Int(1, 4, start=2, limits=(0, 8)),
    },
    batch=augment,
    remember=Judge.of_run,
    note="images only; magnitude of 30; a forward pass more for each candidate",
)
