"""Mean teacher: predictions are held near those of an average of the model's past weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from search_spaces import asking
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.passes import Beginning, Pass
from search_spaces.regularizer import Batch, Regularizer, Strength, Strengths, pooled

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

KNOB, MEMORY = "mean_teacher", "mean_teacher_memory"


class Average:
    """A moving average of the weights of a run, and the weights that it takes in next."""

    def __init__(self, beginning: Beginning) -> None:
        model, self._losses = beginning.model, beginning.losses
        self._average = copy.deepcopy(model).eval().requires_grad_(False)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        named = self._average.named_parameters()
        self._weights = {name: p for name, p in named if name in trained}
        self._latest = {name: p.clone() for name, p in self._weights.items()}

    def outputs(self, batch: Batch, memory: Strength) -> Tensor:
        """What the model puts out with memory * average + (1 - memory) * latest weights, in
        evaluation mode, where the task takes its loss of a batch."""
        still = batch._replace(inputs=batch.inputs.detach())
        weights = self._blended(memory)
        return asking.outputs_under(weights, self._losses, self._average, still, KNOB)

    def follow(self, model: nn.Module, memory: Strength) -> None:
        """Takes in the latest weights, and the running averages of norms; those of the model are
        the latest then. HpoError if it has other weights than it began with."""
        import torch

        now = dict(model.named_parameters()) | dict(model.named_buffers())
        averages = dict(self._average.named_buffers())
        if not {*self._latest, *averages} <= {*now}:
            raise HpoError(
                f"{KNOB} averages the weights of the model, and it has others than it began with",
                hint="leave its knobs out of the space where a method replaces layers",
                code="unsuited-model",
            )
        with torch.no_grad():
            for name, blend in self._blended(memory).items():
                self._weights[name].copy_(blend)
                self._latest[name].copy_(now[name])
            for name, value in averages.items():
                share = memory if value.is_floating_point() else 0.0
                value.copy_(share * value + (1 - share) * now[name])

    def state_dict(self) -> dict[str, Any]:
        """The average and the latest weights."""
        return {"average": self._average.state_dict(), "latest": dict(self._latest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self._average.load_state_dict(state["average"])
        for name, value in self._latest.items():
            value.copy_(state["latest"][name])

    def _blended(self, memory: Strength) -> dict[str, Tensor]:
        latest = self._latest.items()
        return {n: memory * self._weights[n] + (1 - memory) * p for n, p in latest}


def agree(average: Average, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * the mean over the batch of |softmax(z) - softmax(z')|^2, one number.

    z' are the outputs for the same inputs, without dropout, of the model with the weights
    memory * average + (1 - memory) * those of this step, which are the next average (Tarvainen
    and Valpola 2017, there with other noise on the teacher's inputs). They are constants to the
    weights, not to the memory.
    """
    predicted = seen.logits(KNOB).softmax(1)
    taught = average.outputs(seen.batch, pooled(h[MEMORY])).softmax(1)
    apart = (predicted - taught.to(predicted.dtype)).square().sum(1)
    return pooled(h[KNOB]) * apart.mean()


def follow(average: Average, seen: Pass, h: Strengths, rng: torch.Generator) -> None:
    """Moves the average on after a step."""
    average.follow(seen.model, pooled(h[MEMORY]))


def remember(beginning: Beginning) -> Average:
    """The average, at the weights the run begins with."""
    return Average(beginning)


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
