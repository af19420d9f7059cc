"""Mean teacher: predictions are held near those of an average of the model's past weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.passes import Beginning, Pass
from search_spaces.regularizer import Regularizer, Strength, Strengths, pooled

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

KNOB, MEMORY = "mean_teacher", "mean_teacher_memory"


class Average:
    """A copy of the model whose weights are a moving average of those of the run."""

    def __init__(self, model: nn.Module) -> None:
        self._copy = copy.deepcopy(model).eval().requires_grad_(False)

    def outputs(self, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """What the copy puts out with these weights; its norms use averages of their own."""
        import torch

        result: Tensor = torch.func.functional_call(self._copy, dict(weights), (inputs.detach(),))
        return result

    def blended(self, model: nn.Module, memory: Strength) -> dict[str, Tensor]:
        """memory * average + (1 - memory) * now, of each trained weight of a model."""
        now = {name: p for name, p in model.named_parameters() if p.requires_grad}
        kept = {name: p for name, p in self._copy.named_parameters() if name in now}
        if kept.keys() != now.keys() or any(kept[n].shape != p.shape for n, p in now.items()):
            raise HpoError(
                f"{KNOB} averages the weights of the model, and these are not those that it began"
                " with",
                hint="leave its knobs out of the space where a method replaces the layers",
                code="unsuited-model",
            )
        return {name: memory * kept[name] + (1 - memory) * p.detach() for name, p in now.items()}

    def follow(self, model: nn.Module, memory: Strength) -> None:
        """Moves the average, and those of norms, towards the model."""
        import torch

        own = dict(self._copy.named_parameters()) | dict(self._copy.named_buffers())
        buffers = dict(model.named_buffers())
        with torch.no_grad():
            for name, value in self.blended(model, memory).items():
                own[name].copy_(value)
            for name, value in buffers.items():
                share = memory if value.is_floating_point() else 0.0
                own[name].copy_(share * own[name] + (1 - share) * value)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return self._copy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from saved averages."""
        self._copy.load_state_dict(state)


def agree(average: Average, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * the mean over the batch of |softmax(z) - softmax(z')|^2, one number.

    z' are the outputs, for the same inputs and without dropout, of the model with weights
    memory * average + (1 - memory) * now, which become the average after the step (Tarvainen and
    Valpola 2017, there with other noise on the teacher's inputs). They are
    constants to the weights, not to the memory.
    """
    predicted = seen.logits(KNOB).softmax(1)
    weights = average.blended(seen.model, pooled(h[MEMORY]))
    taught = average.outputs(seen.batch.inputs, weights).softmax(1)
    return pooled(h[KNOB]) * (predicted - taught.to(predicted.dtype)).square().sum(1).mean()


def follow(average: Average, seen: Pass, h: Strengths, rng: torch.Generator) -> None:
    """Moves the average towards the weights of the step."""
    average.follow(seen.model, pooled(h[MEMORY]))


def remember(beginning: Beginning) -> Average:
    """The average, at the weights the run begins with."""
    return Average(beginning.model)


REGULARIZER = Regularizer(
    knobs={
        KNOB: Float(0.01, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        MEMORY: Float(0.9, 0.9999, scale="logit", start=0.99, limits=(0.0, 1.0)),
    },
    loss_batch=agree,
    remember=remember,
    learn=follow,
    differentiable=True,
    note="classification only; one more forward pass for each step",
)
