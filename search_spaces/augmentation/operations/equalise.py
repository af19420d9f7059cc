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
    """n(x) / (N - m) at amount 1, where of the N pixels of the channel n(x) fall below the bin of
    x, of 256, and m into the highest that is in use (PIL's form of the method in Gonzalez and
    Woods, section 3.3, without its rounding; `Equalize` of Cubuk et al. 2019). A channel of one
    value stays as it is."""
    import torch

    flat = images.detach().flatten(2)
    bins = (flat * (BINS - 1)).round_().clamp_(0, BINS - 1).nan_to_num_(0).long()
    counts = flat.new_zeros(*flat.shape[:2], BINS)
    counts.scatter_add_(2, bins, torch.ones_like(flat))
    others = flat.shape[2] - counts.gather(2, bins.amax(2, keepdim=True))
    table = (counts.cumsum(2) - counts) / others.clamp(min=1)
    equalised = torch.where(others > 0, table.gather(2, bins), flat).reshape(images.shape)
    return images.lerp(equalised, column(amounts, images).to(images.dtype))


OPERATION = Operation(
    kind="image",
    apply=Split(equal),
    knob=Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=1.0,
    ways="switch",
    valued=True,
    note="the probability",
)
