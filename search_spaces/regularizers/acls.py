"""Adaptive and conditional label smoothing: logits beyond a margin are drawn back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB, MARGIN, TOP, REST = "acls", "acls_margin", "acls_top", "acls_rest"


def excess(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """acls * (top * [max z - m]+^2 + rest * mean over the others of [max z - z_j - m]+^2), (B,).

    m is the margin; in the second part max z is a constant, so that it only raises the small
    logits (Park et al. 2023, with the authors' published code for the constants). What the paper
    asks of it, that it acts beyond the margin alone and grows in proportion to the excess, is
    tested as a statement on the gradient: acls * 2 * top * excess at the largest logit and
    -acls * 2 * rest * excess / (C - 1) at another. Of equal largest logits the first counts.
    """
    import torch

    logits = seen.logits(KNOB)
    largest, place = logits.max(1, keepdim=True)
    margin = spread(h[MARGIN], logits)
    others = torch.ones_like(logits).scatter(1, place, 0.0)
    above = (largest - margin).clamp(min=0).square().squeeze(1)
    below = (largest.detach() - logits - margin).clamp(min=0).square() * others
    rest = below.sum(1) / (logits.shape[1] - 1)
    parts = spread(h[TOP], above) * above + spread(h[REST], rest) * rest
    return spread(h[KNOB], parts) * parts


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(1e-3, 1.0, scale="log", start=0.01, off=0.0, limits=(0.0, float("inf"))),
        MARGIN: Float(0.0, 20.0, start=10.0),
        TOP: Float(0.01, 2.0, scale="log", start=1.0, limits=(0.0, float("inf"))),
        REST: Float(0.01, 2.0, scale="log", start=0.1, limits=(0.0, float("inf"))),
    },
    loss_output=excess,
    differentiable=True,
    note="classification only; the margin is in units of logits",
)
