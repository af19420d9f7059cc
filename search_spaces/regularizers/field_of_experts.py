"""Fields of experts: filters answer seldom in the pictures that a model puts out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strength, Strengths, spread
from search_spaces.regularizers._pictures import pictures, pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

WIDTH = 3


def cosines(width: int) -> list[float]:
    """The two-dimensional cosine basis (DCT-II) without its constant filter, one after another."""

    def wave(order: int, place: int) -> float:
        scale = math.sqrt((2 if order else 1) / width)
        return scale * math.cos(math.pi * (2 * place + 1) * order / (2 * width))

    places = range(width)
    return [
        wave(down, row) * wave(across, column)
        for down, across in orders(width)
        for row in places
        for column in places
    ]


def orders(width: int) -> list[tuple[int, int]]:
    """The orders of these filters, down and across."""
    return [(down, across) for down in range(width) for across in range(width) if down or across]


def experts(x: Tensor, filters: Tensor, weight: Tensor, smooth: Strength | Tensor) -> Tensor:
    """sum over filters of weight * sum over pixels of ((filter * x)^2 + smooth^2)^(1/2), (B,).

    x: pictures (B, C, H, W), each channel by itself, continued beyond their edges; filters:
    (K, width, width); weight and smooth: of a shape that fits (B, C, K, H, W). (Roth and Black,
    Fields of Experts, 2009, with the smoothed absolute value for the expert.)
    """
    from torch.nn.functional import conv2d, pad

    width = filters.shape[1]
    edge = width // 2
    sides = (edge, width - 1 - edge) * 2
    planes = pad(x.flatten(0, 1)[:, None], sides, mode="replicate")
    answers = conv2d(planes, filters[:, None])
    answers = answers.reshape(*x.shape[:2], *answers.shape[1:])
    total: Tensor = (weight * (answers**2 + smooth**2).sqrt()).sum((1, 2, 3, 4))
    return total


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * experts of each example's output, a mean over filters and pixels; 0 if constant.

    The filters are the eight cosines of 3 x 3; their weights are |order|^tilt, scaled to a mean of
    1: a positive tilt minds fine detail more, a negative one coarse.
    """
    import torch

    outputs = pictures(p, "field_of_experts")
    filters = torch.tensor(cosines(WIDTH), dtype=torch.float64).to(outputs).view(-1, WIDTH, WIDTH)
    sizes = torch.tensor([math.hypot(*order) for order in orders(WIDTH)], dtype=torch.float64).to(
        outputs
    )
    wide = outputs[:, None]  # five dimensions, as the answers have
    tilt, smooth = (spread(h[f"field_of_experts_{name}"], wide) for name in ("tilt", "smooth"))
    weight = sizes.view(-1, 1, 1) ** tilt
    weight = weight / weight.mean(-3, keepdim=True)
    found = experts(outputs, filters, weight, smooth) / (pixels(outputs) * len(filters))
    # The weights have a mean of 1, so this is what the experts say of a constant picture.
    value = found - spread(h["field_of_experts_smooth"], found)
    return spread(h["field_of_experts"], value) * value


REGULARIZER = Regularizer(
    knobs={
        "field_of_experts": Float(
            1e-4, 1e2, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))
        ),
        "field_of_experts_smooth": Float(
            1e-4, 1.0, scale="log", start=1e-2, limits=(1e-8, float("inf"))
        ),
        "field_of_experts_tilt": Float(-2.0, 2.0, start=0.0),
    },
    loss_output=term,
    differentiable=True,
    note="models that put out pictures; foe_denoise learns the filters too",
)
