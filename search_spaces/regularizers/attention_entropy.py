"""Entropy of attention: every query should look at more than a few keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread
from search_spaces.regularizers._entropy import entropy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB = "attention_entropy"


def reward(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """-strength * the mean over layers, heads and queries of H(attention), shape (B,).

    (AEM, Zhang et al. 2024, there of the one attention that pools a bag.) HpoError for
    a model without attention layers.
    """
    import torch

    if not seen.attention:
        raise HpoError(
            f"{KNOB} works on attention weights, and no attention layer of this model gives any",
            hint="it needs nn.MultiheadAttention layers; leave its knob out of the space",
            code="unsuited-model",
        )
    layers = [entropy(weights).flatten(1).mean(1) for weights in seen.attention]
    spread_out = torch.stack(layers).mean(0)
    return -spread(h[KNOB], spread_out) * spread_out


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(1e-4, 1.0, scale="log", start=0.01, off=0.0, limits=(0.0, float("inf"))),
    },
    loss_output=reward,
    attends=True,
    differentiable=True,
    note="models with attention layers",
)
