"""RandAugment: for each image N operations, drawn from a list, all at magnitude M."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.policies import _each
from search_spaces.augmentation.values import Range
from search_spaces.domains import Float, Int
from search_spaces.regularizer import Batch, Regularizer, Strengths

if TYPE_CHECKING:
    import torch

MOST, FULL = 8, 30.0


def augment(values: Range, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each image after `randaugment.operations` operations, drawn for it uniformly and with
    replacement, at magnitude `randaugment.magnitude` of 30 (Cubuk et al. 2020, figure 2).

    Operations that go both ways draw a sign. Those without an amount (autocontrast, equalise) act
    in full wherever the magnitude is above zero. Grey images draw among those that fit them.
    """
    import torch

    inputs = images(batch.inputs, "randaugment")
    names = _each.usable(_each.STANDARD, inputs.shape[1])
    choices, own = _each.children(rng, 2)
    which = _each.whole_draws((len(inputs), MOST), len(names), inputs, choices)
    count = _each.per_row(h["randaugment.operations"], inputs)[:, None]
    magnitude = _each.per_row(h["randaugment.magnitude"], inputs)[:, None] / FULL
    now = magnitude * (torch.arange(MOST, device=inputs.device) < count)
    inputs = _each.in_turn(inputs, names, which, now, values, own)
    return batch._replace(inputs=inputs)


POLICY = Regularizer(
    knobs={
        "randaugment.magnitude": Float(0.0, FULL, start=9.0, off=0.0, limits=(0.0, FULL)),
        "randaugment.operations": Int(1, 4, start=2, limits=(0, MOST)),
    },
    batch=augment,
    remember=Range.seen,
    note="images only; N operations an image at magnitude M of 30; N or M zero is off",
)
