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
    found: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        first = first_of(output)
        if first is not None:
            found[:] = [first]

    handle = model.register_forward_hook(note)
    try:
        losses(model, batch)
    finally:
        handle.remove()
    return by_row(found[0] if found else None, len(batch.targets), user)


def first_of(output: Any) -> Tensor | None:
    """The tensor that a model puts out, of several the first; None if that is none."""
    from torch import Tensor

    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def by_row(outputs: Tensor | None, rows: int, user: str) -> Tensor:
    """The outputs themselves, one row for each example; HpoError if a pass did not show them."""
    if outputs is None or outputs.ndim == 0 or len(outputs) != rows:
        found = "nothing" if outputs is None else f"shape {tuple(outputs.shape)}"
        raise HpoError(
            f"{user} looks at what the model puts out for each example, but calling it in loss gave"
            f" {found} for {rows}",
            hint="let the task's loss call model(batch.inputs), and the model give one row for each"
            " example; or leave this knob out",
            code="unsuited-model",
        )
    return outputs


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
