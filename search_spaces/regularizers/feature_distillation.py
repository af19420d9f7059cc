"""Feature distillation: embeddings are held near those of a trained teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.frozen import Frozen, teacher
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB = "feature_distillation"


def follow(teacher: Frozen, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * the squared distance of model and teacher in embedding space, shape (B,).

    With embeddings of the same width D it is |e - e'|^2 / D (Romero et al. 2015; with
    the model's own earlier training as teacher, Lee et al. 2023 regularize further pre-training
    so). With different widths, which no distance compares, it is for each example the mean over
    the batch of (cos(e_i, e_j) - cos(e'_i, e'_j))^2, as in Tung and Mori (2019), with cosines for
    their rows of unit length. The embedding is what the last nn.Linear is given.
    """
    own = seen.embedding(KNOB)
    taught = teacher.embedding(seen.batch.inputs, KNOB).to(own.dtype)
    if own.shape[1] == taught.shape[1]:
        apart = (own - taught).square().mean(1)
    else:
        apart = (_cosines(own) - _cosines(taught)).square().mean(1)
    return spread(h[KNOB], apart) * apart


def _cosines(rows: Tensor) -> Tensor:
    """The cosine of every two rows (B, B)."""
    from torch.nn import functional

    unit = functional.normalize(rows, dim=1)
    return unit @ unit.T


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(0.01, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
    },
    loss_output=follow,
    remember=lambda beginning: teacher(beginning, KNOB),
    differentiable=True,
    note="the task must bring a teacher: teacher(seed) -> nn.Module; other widths are possible",
)
