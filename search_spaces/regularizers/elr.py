"""Early-learning regularization: predictions are held near their own running average."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.example_memory import ExampleMemory, class_memory
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB, MEMORY = "elr", "elr_memory"
EDGE = 1e-4  # keeps the logarithm finite where prediction and target agree fully


def agree(memory: ExampleMemory, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """elr * log(1 - <p, t>) with p the prediction and t its running target, shape (B,).

    t = elr_memory * t_before + (1 - elr_memory) * p, where p has no gradient and t_before is zero
    for an example not seen before (Liu et al. 2020; <p, t> is taken
    1 - 1e-4 times, where they clip p). The gradient in the logits is
    p_c / (1 - <p, t>) * (<p, t> - t_c), which pulls towards the classes of t. At a wrong label of
    two classes in question and t sure of the other one it is minus that of the cross-entropy, so
    that elr = 1 stops memorising and more than 1 turns it back (derived, tested).

    t_before changes after each step alone. What is averaged are the predictions in training, of
    the example as it was augmented or blended then.
    """
    import torch

    predicted = seen.logits(KNOB).softmax(1)
    before, _ = memory.recall(seen.raw.inputs)
    target = _average(before, predicted, h)
    agreement = (predicted * target).sum(1)
    return spread(h[KNOB], agreement) * torch.log1p((EDGE - 1) * agreement)


def remember(memory: ExampleMemory, seen: Pass, h: Strengths, rng: torch.Generator) -> None:
    """Moves the running targets of the batch towards what was predicted in the step."""
    predicted = seen.logits(KNOB).detach().softmax(1)
    memory.update(seen.raw.inputs, lambda before: _average(before, predicted, h))


def _average(before: Tensor, predicted: Tensor, h: Strengths) -> Tensor:
    share = spread(h[MEMORY], predicted)
    return share * before.to(predicted.dtype) + (1 - share) * predicted.detach()


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(0.1, 20.0, scale="log", start=3.0, off=0.0, limits=(0.0, float("inf"))),
        MEMORY: Float(0.3, 0.99, scale="logit", start=0.7, limits=(0.0, 1.0)),
    },
    loss_output=agree,
    remember=lambda beginning: class_memory(beginning, KNOB),
    learn=remember,
    differentiable=True,
    whole=True,
    note="classification only, for wrong labels; knows a training example by its raw inputs",
)
