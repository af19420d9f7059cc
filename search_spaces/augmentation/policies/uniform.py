"""UniformAugment: everything about two operations is drawn: which, how strong, whether at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.policies import _each
from search_spaces.augmentation.values import Range
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths
from search_spaces.regularizer import uniform as uniform_draws

if TYPE_CHECKING:
    import torch

STAGES = 2


def augment(values: Range, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """A share `uniform` of the images after two operations each, drawn uniformly; either is carried
    out with a probability from U(0, 1), at a magnitude from U(0, 1), all drawn for the image
    (LingChen et al. 2020, algorithm 1, where the share is 1).

    Nothing here is tuned: it is the baseline that a searched policy must beat.
    """
    inputs = images(batch.inputs, "uniform")
    names = _each.usable([*_each.STANDARD, "invert"], inputs.shape[1])
    choices, own = _each.children(rng, 2)
    which = _each.whole_draws((len(inputs), STAGES), len(names), inputs, choices)
    magnitude, probability, coin = uniform_draws((3, len(inputs), STAGES), inputs, choices)
    spared = uniform_draws((len(inputs), 1), inputs, choices)
    taken = spared < _each.per_row(h["uniform"], inputs)[:, None]
    now = magnitude * (coin < probability) * taken
    inputs = _each.in_turn(inputs, names, which, now, values, own)
    return batch._replace(inputs=inputs)


POLICY = Regularizer(
    knobs={"uniform": Float(0.0, 1.0, start=1.0, off=0.0, limits=(0.0, 1.0))},
    batch=augment,
    remember=Range.seen,
    note="images only; the share of images that get two operations with everything drawn",
)
