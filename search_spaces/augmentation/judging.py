"""What hooks that listen to the model keep of a run: its live model, its loss, its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.augmentation.values import Range
from search_spaces.errors import HpoError
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces.passes import Beginning


@dataclass(frozen=True)
class Judge:
    """The model as training has left it so far, the task's loss, and the range of the inputs."""

    model: nn.Module
    of: Callable[[nn.Module, Batch], Tensor]
    values: Range

    @staticmethod
    def of_run(beginning: Beginning) -> Judge:
        """That of a run which begins."""
        return Judge(beginning.model, beginning.losses, Range.seen(beginning))

    def losses(self, batch: Batch, policy: str) -> Tensor:
        """The loss of each example (B,), with dropout at rest and norms that do not learn."""
        with evaluating(self.model):
            found = self.of(self.model, batch)
        if found.shape != (len(batch.targets),):
            raise HpoError(
                f"{policy} needs the loss of each example, found a loss of shape "
                f"{tuple(found.shape)} for {len(batch.targets)}",
                hint='with reduction="none" cross_entropy gives them; or leave its knobs out',
                code="bad-loss",
            )
        return found
