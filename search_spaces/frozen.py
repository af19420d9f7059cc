"""A model that does not learn, asked for its outputs: a teacher, or the model as it once was."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from search_spaces import asking
from search_spaces.errors import HpoError
from search_spaces.passes import embedding
from search_spaces.regularizer import Strength, spread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces.passes import Beginning
    from search_spaces.regularizer import Batch


class Frozen:
    """A module in evaluation mode whose parameters have no gradient."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module.eval().requires_grad_(False)
        self._linear = _linear(module)

    def outputs(self, inputs: Tensor) -> Tensor:
        """What it puts out for these inputs; a constant to every derivative."""
        import torch

        with torch.no_grad():
            outputs: Tensor = self._module(inputs.detach())
        return outputs

    def embedding(self, inputs: Tensor, user: str) -> Tensor:
        """What its last linear layer is given, one row (B, D) for each example; else HpoError."""
        given: list[Tensor | None] = [None]

        def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            given[0] = arguments[0]

        notes = [layer.register_forward_pre_hook(note) for layer in self._linear]
        try:
            self.outputs(inputs)
        finally:
            for each in notes:
                each.remove()
        return embedding(given[0], len(inputs), f"{user}, of the teacher,")


class Start(Frozen):
    """The model as it is when the run begins, part of its checkpoints."""

    def __init__(self, beginning: Beginning) -> None:
        super().__init__(copy.deepcopy(beginning.model))
        self._losses = beginning.losses

    def taught(self, batch: Batch, user: str) -> Tensor:
        """What it puts out where the task takes its loss of a batch; a constant to every
        derivative."""
        import torch

        with torch.no_grad():
            return asking.outputs(self._losses, self._module, batch, user)

    def state_dict(self) -> dict[str, Any]:
        """Its weights and buffers."""
        return self._module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what was saved."""
        self._module.load_state_dict(state)


def teacher(beginning: Beginning, user: str) -> Frozen:
    """The teacher that the task brings; HpoError if it brings none.

    It is no part of checkpoints: a run that goes on asks the task for it again.
    """
    if beginning.teacher is None:
        raise HpoError(
            f"{user} needs a teacher, and this task brings none",
            hint="give the task a method teacher(seed) that returns a trained torch.nn.Module for"
            " the same inputs; self_distillation, mean_teacher and lwf need none",
            code="no-teacher",
        )
    return Frozen(beginning.teacher)


def divergence(taught: Tensor, logits: Tensor, temperature: Strength, user: str) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)) of each example, shape (B,).

    With T^2 the gradient in the logits keeps its size as T grows (Hinton et al. 2015).
    HpoError if the two are not of the same classes.
    """
    if taught.shape != logits.shape:
        raise HpoError(
            f"{user} compares outputs of the same classes, found {tuple(taught.shape)} of the"
            f" teacher and {tuple(logits.shape)} of the model",
            hint="use feature_distillation, which compares embeddings, or leave its knobs out",
            code="unsuited-model",
        )
    by_row = spread(temperature, logits)
    wanted = (taught.to(logits.dtype) / by_row).log_softmax(1)
    found = (logits / by_row).log_softmax(1)
    apart = (wanted.exp() * (wanted - found)).sum(1)
    return spread(temperature, apart) ** 2 * apart


def _linear(module: nn.Module) -> list[nn.Linear]:
    from torch import nn

    return [part for part in module.modules() if isinstance(part, nn.Linear)]
