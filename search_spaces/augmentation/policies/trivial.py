"""TrivialAugment: for each image one operation at a magnitude that is drawn too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.policies import _each
from search_spaces.augmentation.values import Range
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, uniform

if TYPE_CHECKING:
    import torch


def augment(values: Range, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """A share `trivial` of the images, each after one operation drawn uniformly, at a magnitude
    from U(0, 1) (Mueller and Hutter 2021, algorithm 1, where the share is 1 and the magnitudes are
    31 steps of that interval)."""
    inputs = images(batch.inputs, "trivial")
    names = _each.usable(_each.STANDARD, inputs.shape[1])
    choices, own = _each.children(rng, 2)
    which = _each.whole_draws((len(inputs), 1), len(names), inputs, choices)
    magnitude, coin = uniform((2, len(inputs)), inputs, choices)
    now = magnitude * (coin < _each.per_row(h["trivial"], inputs))
    after = _each.in_turn(inputs, names, which, now[:, None], values, own)
    return batch._replace(inputs=after)


POLICY = Regularizer(
    knobs={"trivial": Float(0.0, 1.0, start=1.0, off=0.0, limits=(0.0, 1.0))},
    batch=augment,
    remember=Range.seen,
    note="images only; the share of images that get one operation at a random magnitude",
)
