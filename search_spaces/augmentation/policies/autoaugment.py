"""AutoAugment: for each image one of several pairs of operations, searched or as published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search_spaces.augmentation.images import images
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
    import torch

    inputs = images(batch.inputs, "autoaugment")
    rows = len(inputs)
    steps, probabilities, magnitudes = _policy(h, inputs)
    choices, own = _each.children(rng, 2)
    share, place = uniform((2, rows), inputs, choices)
    coins = uniform((rows, STAGES), inputs, choices)
    chosen = (place * len(steps)).long().clamp(max=len(steps) - 1)
    names = [_each.IDENTITY, *dict.fromkeys(name for pair in steps for name in pair)]
    fitting = _each.usable(names, inputs.shape[1])
    places = [[fitting.index(n) if n in fitting else 0 for n in pair] for pair in steps]
    which = chosen.new_tensor(places)[chosen]
    every = torch.arange(rows, device=inputs.device)
    now = magnitudes[chosen, every] * (coins < probabilities[chosen, every])
    now = now * (share < _each.per_row(h["autoaugment"], inputs))[:, None]
    return batch._replace(inputs=_each.in_turn(inputs, fitting, which, now, values, own))


def _policy(h: Any, inputs: Tensor) -> tuple[list[tuple[str, ...]], Tensor, Tensor]:
    """The operations of each sub-policy; their probabilities and their magnitudes in [0, 1], both
    (sub-policies, B, stages)."""
    import torch

    source = h["autoaugment.policy"]
    if source in TABLES:
        pairs = published(source)
        names = [tuple(step.operation for step in pair) for pair in pairs]
        numbers = torch.tensor([[step[1:] for step in pair] for pair in pairs], dtype=torch.double)
        chances, levels = numbers.to(inputs).unbind(2)
        size = (-1, len(inputs), -1)
        return names, chances[:, None].expand(size), levels[:, None].expand(size)
    own = slots()
    pairs_of = [own[at : at + STAGES] for at in range(0, len(own), STAGES)]
    names = [tuple(str(h[slot]) for slot in pair) for pair in pairs_of]

    def stacked(what: str, scale: float) -> Tensor:
        return torch.stack(
            [
                torch.stack([_each.per_row(h[f"{s}_{what}"], inputs) / scale for s in pair], dim=1)
                for pair in pairs_of
            ]
        )

    return names, stacked("probability", 1.0), stacked("magnitude", HIGHEST)


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
