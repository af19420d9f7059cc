"""What models beside the run's put out where the task takes its loss of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces.regularizer import Batch

Losses: TypeAlias = "Callable[[nn.Module, Batch], Tensor]"  # the task's, as in a `Beginning`


def outputs(losses: Losses, model: nn.Module, batch: Batch, user: str) -> Tensor:
    """What the model puts out, one row for each example, when the task takes its loss of a batch.

    A task may scale inputs, change their type or take a part of what the model gives before it
    compares; calling the model with the inputs themselves would ask another question. Of several
    outputs it is the first. HpoError if the loss does not call the model.
    """
    from torch import Tensor

    found: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor):
            found[:] = [first]

    handle = model.register_forward_hook(note)
    try:
        losses(model, batch)
    finally:
        handle.remove()
    if not found or found[0].ndim == 0 or len(found[0]) != len(batch.targets):
        shape = f"shape {tuple(found[0].shape)}" if found else "nothing"
        raise HpoError(
            f"{user} asks a model for its outputs, but calling it in loss gave {shape} for"
            f" {len(batch.targets)} examples",
            hint="let the task's loss call model(batch.inputs), and the model give one row for each"
            " example; or leave this knob out",
            code="unsuited-model",
        )
    return found[0]


def outputs_under(
    weights: Mapping[str, Tensor], losses: Losses, model: nn.Module, batch: Batch, user: str
) -> Tensor:
    """The same with these weights, by name, in place of the model's, and a gradient in them."""
    from torch import nn
    from torch.func import functional_call

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Batch) -> Tensor:
            return outputs(losses, self.model, batch, user)

    named = {f"model.{name}": weight for name, weight in weights.items()}
    result: Tensor = functional_call(Asked(), named, (batch,))
    return result
