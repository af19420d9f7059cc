"""Self-distillation: a share of each target is what the model last predicted for the example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.example_memory import ExampleMemory, class_memory
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer, Strengths, spread
from search_spaces.regularizers._classes import cross_entropy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOB = "self_distillation"


def refine(memory: ExampleMemory, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """share * (CE(past prediction) - CE(target)) of each example, shape (B,).

    As cross-entropy is linear in the target, this turns that of y into that of
    (1 - share) y + share * p, with p what was predicted when the example was last trained on
    (PS-KD, Kim et al. 2021); zero for an example not seen before. There the share
    grows in proportion to the epoch: `self_distillation: {schedule: linear}` searches its first
    and its last value. The closed form of a good share is `mixing_weight`.
    """
    change = _change(memory, seen)
    return spread(h[KNOB], change) * change


def _change(memory: ExampleMemory, seen: Pass) -> Tensor:
    plain = cross_entropy(seen, KNOB)
    logits = seen.logits(KNOB)
    past, known = memory.recall(seen.raw.inputs)
    refined = -(past.to(logits.dtype) * logits.log_softmax(1)).sum(1)
    return (refined - plain).where(known, plain.new_zeros(()))


def remember(memory: ExampleMemory, seen: Pass, h: Strengths, rng: torch.Generator) -> None:
    """Keeps what was predicted for the examples of the batch in the step."""
    predicted = seen.logits(KNOB).detach().softmax(1)
    memory.update(seen.raw.inputs, lambda before: predicted)


def mixing_weight(targets: Tensor, taught_by_labels: Tensor, taught_by_teacher: Tensor) -> Tensor:
    """The share of a teacher in the targets that is best on held-out data, in [0, 1].

    targets: the held-out ones; the other two: predictions there of a model fitted to the labels
    and of one fitted to the teacher's predictions, all of one shape. A fit that is linear in what
    it is fitted to, such as kernel ridge, predicts (1 - a) f + a g from labels mixed with a
    teacher's share a, so that |y - (1 - a) f - a g|^2 is least at a = <y - f, g - f> / |g - f|^2
    (Borup and Andersen 2021, their weight of the ground truth is 1 - a; derived from this
    linearity and tested against a grid on kernel ridge). Of a network, which is not linear in its
    targets, it is an estimate from two trainings in place of a grid of them. Call it from Python:

        from search_spaces.regularizers.self_distillation import mixing_weight

    and give the result as the value of `self_distillation` or `distillation` under `fixed:`.
    Where both predict alike any share is as good, and it is 0. HpoError for unequal shapes.
    """
    shapes = [tuple(part.shape) for part in (targets, taught_by_labels, taught_by_teacher)]
    if len(set(shapes)) != 1:
        raise HpoError(
            f"mixing_weight compares tensors of one shape, found {', '.join(map(str, shapes))}",
            hint="class numbers must be one-hot rows first",
            code="bad-shape",
        )
    towards = taught_by_teacher - taught_by_labels
    length = towards.square().sum()
    share = ((targets - taught_by_labels) * towards).sum() / length
    return share.clamp(0, 1).where(length > 0, length.new_zeros(()))


REGULARIZER = Regularizer(
    knobs={KNOB: Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0))},
    loss_output=refine,
    remember=lambda beginning: class_memory(beginning, KNOB),
    learn=remember,
    differentiable=True,
    whole=True,
    note="for cross-entropy; meant to grow over training; knows an example by its raw inputs",
)
