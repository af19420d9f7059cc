"""Window slice: a part of a series, stretched to the whole length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.operations._series import read, times
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def cut(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """A window that leaves out a share `amount` of the time, at a uniformly drawn place.

    It is stretched to the old length in straight lines, as in Le Guennec et al. (2016), whose
    windows keep 0.9 of the series.
    """
    first = uniform((len(series), 1), series, rng) * amount[:, None] * (series.shape[-1] - 1)
    return read(series, first + times(series) * (1 - amount[:, None]))


OPERATION = Operation(
    kind="series",
    apply=cut,
    knob=Float(0.0, 0.8, start=0.05, off=0.0, limits=(0.0, 0.99)),
    full=0.5,
    differentiable=True,
    note="leaves out so large a share of the time at the ends, and stretches the rest",
)
