"""Each channel's values are made equally frequent; the strength is the probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor

BINS = 256


def equal(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """(n(x) - n(low)) / (N - n(low)) at amount 1, where n(x) of the N pixels of the channel fall
    in the bin of x or below, of 256, and low is its least value (Gonzalez and Woods, section 3.3;
    `Equalize` of Cubuk et al. 2019); a channel of one value stays as it is."""
    import torch

    flat = images.detach().flatten(2)
    bins = (flat * (BINS - 1)).round_().clamp_(0, BINS - 1).long()
    counts = flat.new_zeros(*flat.shape[:2], BINS)
    below = counts.scatter_add_(2, bins, torch.ones_like(flat)).cumsum_(2)
    lowest = (flat.amin(2, keepdim=True) * (BINS - 1)).round_().clamp_(0, BINS - 1).long()
    least = below.gather(2, lowest)
    left = flat.shape[2] - least
    table = (below - least) / left.clamp(min=1)
    equalised = torch.where(left > 0, table.gather(2, bins), flat).reshape(images.shape)
    return images.lerp(equalised, column(amounts, images))


OPERATION = Operation(
    kind="image",
    apply=Split(equal),
    knob=Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=1.0,
    ways="switch",
    valued=True,
    note="the probability",
)
