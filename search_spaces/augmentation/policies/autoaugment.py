"""AutoAugment: for each image one of several pairs of operations, searched or as published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search_spaces.augmentation.policies import _each
from search_spaces.augmentation.policies._published import HIGHEST, TABLES, published
from search_spaces.augmentation.values import Range
from search_spaces.domains import Choice, Domain, Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEARCHED = "searched"
SUB_POLICIES, STAGES = 5, 2
# The paper's, where erase is called cutout, but for pairing of samples: that needs two images.
_NAMES = (
    "shear_x shear_y translate_x translate_y rotate autocontrast invert equalise solarise "
    "posterise contrast saturation brightness sharpness erase"
)
OPERATIONS = tuple(_NAMES.split())


def slots() -> list[str]:
    """The names of the steps of a searched policy: autoaugment.1a, .1b, .2a and so on."""
    letters = "ab"[:STAGES]
    return [f"autoaugment.{n}{letter}" for n in range(1, SUB_POLICIES + 1) for letter in letters]


def augment(values: Range, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """A share `autoaugment` of the images, each after one sub-policy drawn uniformly: its two
    operations in order, each with its own probability (Cubuk et al. 2019, section 3).

    Magnitude 9 is what the operation calls full. An operation that goes both ways draws a sign.
    On grey images those that need colour change nothing.
    """
    inputs = _each.images(batch.inputs, "autoaugment")
    steps, probabilities, magnitudes = _policy(h, inputs)
    choices, *stages = _each.children(rng, 1 + STAGES)
    share, *coins, place = uniform((STAGES + 2, len(inputs)), inputs, choices)
    chosen = (place * len(steps)).long().clamp(max=len(steps) - 1)
    taken = share < _each.per_row(h["autoaugment"], inputs)
    names = list(dict.fromkeys(name for pair in steps for name in pair))
    fitting = _each.usable(names, inputs.shape[1])
    rows = _numbers_of_rows(inputs)
    for stage, own in enumerate(stages):
        numbers = [_place(fitting, pair[stage]) for pair in steps]
        which = chosen.new_tensor(numbers)[chosen]
        now = coins[stage] < probabilities[stage][chosen, rows]
        now = now & taken & (which >= 0)
        magnitude = magnitudes[stage][chosen, rows] * now
        inputs = _each.one_each(inputs, fitting, which.clamp(min=0), magnitude, values, own)
    return batch._replace(inputs=inputs)


def _numbers_of_rows(inputs: Tensor) -> Tensor:
    """The numbers of the rows."""
    import torch

    return torch.arange(len(inputs), device=inputs.device)


def _place(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _policy(h: Any, inputs: Tensor) -> tuple[list[tuple[str, ...]], list[Tensor], list[Tensor]]:
    """The operations of each sub-policy; for each stage their probabilities and magnitudes in
    [0, 1], (sub-policies, B) each."""
    import torch

    source = h["autoaugment.policy"]
    if source in TABLES:
        pairs = published(source)
        numbers = torch.tensor([[step[1:] for step in pair] for pair in pairs], dtype=torch.double)
        numbers = numbers.to(inputs)[..., None].expand(-1, -1, -1, len(inputs))
        names = [tuple(step.operation for step in pair) for pair in pairs]
        return names, [*numbers[:, :, 0].unbind(1)], [*numbers[:, :, 1].unbind(1)]
    own = slots()
    chances = [_each.per_row(h[f"{slot}_probability"], inputs) for slot in own]
    levels = [_each.per_row(h[f"{slot}_magnitude"], inputs) / HIGHEST for slot in own]
    names = [tuple(str(h[slot]) for slot in own[at : at + STAGES]) for at in _starts()]
    per_stage = [
        [torch.stack([numbers[at + stage] for at in _starts()]) for stage in range(STAGES)]
        for numbers in (chances, levels)
    ]
    return names, per_stage[0], per_stage[1]


def _starts() -> range:
    return range(0, SUB_POLICIES * STAGES, STAGES)


def _knobs() -> dict[str, Domain]:
    knobs: dict[str, Domain] = {
        "autoaugment": Float(0.0, 1.0, start=1.0, off=0.0, limits=(0.0, 1.0)),
        "autoaugment.policy": Choice((SEARCHED, *TABLES)),
    }
    when = {"autoaugment.policy": (SEARCHED,)}
    for number, slot in enumerate(slots()):
        start = OPERATIONS[number]  # ten different ones
        knobs[slot] = Choice(OPERATIONS, start=start, when=when)
        knobs[f"{slot}_probability"] = Float(0.0, 1.0, start=0.5, when=when, limits=(0.0, 1.0))
        knobs[f"{slot}_magnitude"] = Float(
            0.0, HIGHEST, start=4.0, when=when, limits=(0.0, HIGHEST)
        )
    return knobs


POLICY = Regularizer(
    knobs=_knobs(),
    batch=augment,
    remember=Range.seen,
    note="images only; the share of images that get a pair of operations, of five that are "
    "searched or of 25 that were published",
)
