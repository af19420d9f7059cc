"""What a regularizer may look at: a forward pass of training, and the beginning of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from search_spaces.augmentation.vocabulary import Vocabulary
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.regularizer import Batch


@dataclass(frozen=True)
class Pass:
    """A forward pass of training: what went in, and what the model put out.

    raw: the batch as the task gave it; batch: as the model saw it, its targets as the loss did.
    outputs: what the model put out, one row for each example. features: what its last linear layer
    was given; None where it has none. attention: the weights of its attention layers, (B, heads,
    queries, keys) each; empty unless a regularizer asks for them (`attends`).

    again: the outputs for other inputs of as many rows, under the same knobs and with new draws at
    the dropout sites; the running averages of norms do not learn from it. embed: what the last
    linear layer is given in such a pass. view: the raw batch with new draws of everything that
    changes batches, augmentations among them.
    """

    model: nn.Module
    raw: Batch
    batch: Batch
    outputs: Tensor
    again: Callable[[Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    view: Callable[[], Batch]
    features: Tensor | None = None
    attention: tuple[Tensor, ...] = field(default=())

    def logits(self, user: str) -> Tensor:
        """The outputs if there is a row (B, C) of two or more for each example; else HpoError."""
        if self.outputs.ndim != 2 or self.outputs.shape[1] < 2:
            raise HpoError(
                f"{user} needs outputs (B, C) of two or more classes, found "
                f"{tuple(self.outputs.shape)}",
                hint="it is for classification: leave its knobs out of the space",
                code="bad-batch",
            )
        return self.outputs

    def embedding(self, user: str) -> Tensor:
        """What the last linear layer was given, one row (B, D) for each example; else HpoError."""
        return embedding(self.features, len(self.outputs), user)


def embedding(features: Tensor | None, rows: int, user: str) -> Tensor:
    """The features (rows, D); HpoError if a pass did not show one row of them for each example."""
    if features is None or features.ndim < 2 or len(features) != rows:
        raise HpoError(
            f"{user} works on what the last nn.Linear of the model is given, one row for each "
            "example, and this model has no such layer",
            hint="leave its knobs out of the space",
            code="unsuited-model",
        )
    return features.flatten(1)


@dataclass(frozen=True)
class Beginning:
    """A run before its first step.

    model: with the weights it starts from; it is the one that is then trained. losses: the task's
    loss of a batch under a model, whose norms do not learn from it. batches: one pass over the
    training split, always the same, drawing from no generator of the run; on the run's device.
    teacher: a trained model that the task brings, frozen, or None. vocabulary: what the task says
    of its tokens.
    """

    model: nn.Module
    losses: Callable[[nn.Module, Batch], Tensor]
    batches: Callable[[], Iterator[Batch]]
    classes: int | None
    teacher: nn.Module | None
    seed: int
    device: torch.device
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    @cached_property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest value of the training inputs, looked for once."""
        low, high = float("inf"), float("-inf")
        for batch in self.batches():
            low = min(low, float(batch.inputs.min()))
            high = max(high, float(batch.inputs.max()))
        return low, high

    def weights(self) -> Mapping[str, Tensor]:
        """Copies of the trained parameters as they are at the start, by name."""
        named = self.model.named_parameters()
        return {name: p.detach().clone() for name, p in named if p.requires_grad}
