"""Distillation: a share of the loss is the distance from the predictions of a trained teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.frozen import Frozen, divergence, teacher
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread
from search_spaces.regularizers._classes import cross_entropy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB, TEMPERATURE = "distillation", "distillation_temperature"


def follow(teacher: Frozen, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """share * (T^2 KL(teacher at T || model at T) - CE(target)) of each example, shape (B,).

    It turns a loss of cross-entropy into (1 - share) CE + share * T^2 KL (Hinton et al. 2015).
    At T = 1 its gradient is that of targets of which the teacher's prediction has this share. The
    teacher sees what the model sees, augmentations included, in evaluation mode, so that strong
    ones show more of it (HARD, Nix et al. 2023, trains augmentations to that end).
    """
    plain = cross_entropy(seen, KNOB)
    taught = teacher.outputs(seen.batch.inputs)
    apart = divergence(taught, seen.outputs, h[TEMPERATURE], KNOB)
    return spread(h[KNOB], plain) * (apart - plain)


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0)),
        TEMPERATURE: Float(1.0, 10.0, scale="log", start=2.0, limits=(0.0, float("inf"))),
    },
    loss_output=follow,
    remember=lambda beginning: teacher(beginning, KNOB),
    differentiable=True,
    note="for cross-entropy; the task must bring a teacher: teacher(seed) -> nn.Module",
)
