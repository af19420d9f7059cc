"""Jacobian penalty: how much the outputs move with the inputs; the strength is its weight."""

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
    """strength / 2 * ||d outputs / d inputs||_F^2 for each example, estimated.

    (Hoffman, Roberts and Yaida 2019, section 2, who project the outputs and differentiate twice;
    here a random direction of the inputs is followed for a short way, by two more passes.)
    One direction a step: what more of them would save in noise, the mean over steps saves too, and
    their number would change the draws.
    """

    inputs = real(p.batch.inputs, "jacobian")
    estimate = squared_slope(p.again, inputs, p.outputs, rng)
    return 0.5 * spread(h["jacobian"], estimate) * estimate


REGULARIZER = Regularizer(
    knobs={"jacobian": Float(1e-5, 10.0, scale="log", off=0.0, limits=(0.0, float("inf")))},
    loss_output=penalty,
    differentiable=True,
    note="two more passes a step; in units of the inputs: bring them to unit variance first",
)
