"""The values that inputs have, and operations that want them between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.passes import Beginning


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value of the inputs."""

    low: float
    high: float

    @staticmethod
    def seen(beginning: Beginning) -> Range:
        """The range of the inputs of the training split."""
        return Range(*beginning.span)


UNIT = Range(0.0, 1.0)


def scaled(inputs: Tensor, values: Range, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The inputs after a change that is made while their values lie between 0 and 1."""
    width = max(values.high - values.low, 1e-12)
    return change((inputs - values.low) / width) * width + values.low
