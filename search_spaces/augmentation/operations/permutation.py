"""Permutation: a series is cut into pieces, which come in another order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.domains import Int
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST_CUTS = 16


def permute(series: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """The pieces between `amount` uniformly drawn cuts, in uniformly drawn order (Um et al. 2017).

    An amount between whole numbers counts as the nearest. All channels are cut alike.
    """
    import torch

    rows, _, length = series.shape
    cuts = uniform((rows, MOST_CUTS), series, rng) * length
    keys = uniform((rows, MOST_CUTS + 1), series, rng)
    made = torch.arange(MOST_CUTS, device=series.device) < amount.round()[:, None]
    time = torch.arange(length, device=series.device)
    before = (cuts[:, :, None] <= time + 0.5) & made[:, :, None]  # (rows, cuts, length)
    piece = before.sum(1)
    order = keys.gather(1, piece).argsort(dim=1, stable=True)
    return series.gather(2, order[:, None, :].expand_as(series))


OPERATION = Operation(
    kind="series",
    apply=permute,
    knob=Int(0, 8, start=1, off=0, limits=(0, MOST_CUTS)),
    full=4.0,
    note="so many cuts, at most 16; the pieces change places",
)
