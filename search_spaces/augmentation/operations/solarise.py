"""Each image's brightest values are inverted; the amount is how far down this reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor

# White is not above the threshold at an amount of zero; whole levels are not to round below it.
TOP = 256 / 255 - 1e-6
SOFT = 1 / 32  # width of the gate in the gradient, against that of the range of values


def solar(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """1 - x where v >= 256 (1 - amount), else x, with v = 255 x; magnitude 1 inverts everything
    (Cubuk et al. 2019, table 6).

    In the gradient the gate is the sigmoid of (x - 256 / 255 (1 - amount)) / SOFT: its slope
    spreads over many pixels what the true one has at the threshold alone.
    """
    import torch

    threshold = column((1 - amounts) * TOP, images)
    inverted = torch.where(images.detach() >= threshold.detach(), 1 - images, images)
    if not amounts.requires_grad:
        return inverted
    gate = ((images.detach() - threshold) / SOFT).sigmoid()
    return inverted + (gate - gate.detach()) * (1 - 2 * images.detach())


OPERATION = Operation(
    kind="image",
    apply=Split(solar),
    knob=Float(0.0, 1.0, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=1.0,
    valued=True,
    differentiable=True,
    surrogate=True,
    note="one minus the threshold; the gradient is that of a soft gate",
)
