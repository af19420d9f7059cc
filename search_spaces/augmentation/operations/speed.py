"""Speed: a series is played faster or slower about its middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.operations._series import read, times
from search_spaces.domains import Float

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def play(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """The series at speed 2^amount: x(m + (t - m) 2^amount), m the middle of its time.

    An amount is in octaves: 1 is twice as fast, -1 half as fast (speeds from 0.5 to 2, as in "Speed
    Co-Augmentation for Unsupervised Audio-Visual Pre-training"). Played faster, it is over early:
    its end values hold. Played slower, its middle part remains.
    """
    time = times(series)
    middle = (series.shape[-1] - 1) / 2
    return read(series, middle + (time - middle) * amount[:, None].exp2())


OPERATION = Operation(
    kind="series",
    apply=play,
    knob=Float(0.0, 1.0, start=0.05, off=0.0, limits=(0.0, float("inf"))),
    full=1.0,
    ways="both",
    differentiable=True,
    note="faster or slower by up to so many octaves",
)
