"""Contraction of the features: how much they move with the inputs; the strength is its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, real, spread
from search_spaces.regularizers._nearby import squared_slope

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def penalty(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * ||d features / d inputs||_F^2 for each example, estimated from two more passes.

    (Rifai et al. 2011, section 3, there for the code of an autoencoder.) The features are what the
    last linear layer is given. Unlike the slope of the outputs, this one cannot be lowered by the
    weights of that layer.
    """

    inputs = real(p.batch.inputs, "contractive")
    features = p.embedding("contractive")
    estimate = squared_slope(p.embed, inputs, features, rng)
    return spread(h["contractive"], estimate) * estimate


REGULARIZER = Regularizer(
    knobs={"contractive": Float(1e-5, 10.0, scale="log", off=0.0, limits=(0.0, float("inf")))},
    loss_output=penalty,
    differentiable=True,
    note="two more passes a step; what the last linear layer is given changes little with inputs",
)
