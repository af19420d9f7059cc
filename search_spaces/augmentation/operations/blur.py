"""Each image is blurred; the amount is the standard deviation of the filter in pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor

SHARP = 1e-2  # pixels; below it every neighbour's weight is zero


def soften(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """A Gaussian filter along the rows and along the columns, with weights that sum to 1 over the
    pixels that there are (as an augmentation: Chen et al. 2020, appendix A). Magnitude 1 is 2
    pixels, as there."""
    rows, columns = (_filter(amounts.to(images.dtype), length) for length in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].mT


def _filter(amounts: Tensor, length: int) -> Tensor:
    """The filters along an axis, (B, length, length)."""
    import torch

    places = torch.arange(length, dtype=amounts.dtype, device=amounts.device)
    apart = places[:, None] - places
    return torch.softmax(-(apart / amounts.clamp(min=SHARP)[:, None, None]).square() / 2, dim=2)


OPERATION = Operation(
    kind="image",
    apply=Split(soften),
    knob=Float(0.0, 3.0, start=0.5, off=0.0, limits=(0.0, float("inf"))),
    full=2.0,
    differentiable=True,
    note="pixels",
)
