"""Each image keeps fewer bits of its values; the amount is how many of eight it loses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split, column
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor

TOP = 255.0
ROUNDING = 1e-3  # of a level: whole levels are not to fall to the one below


def coarsen(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """s floor(v / s) / 255 with v = 255 x and steps s = 2^amount: the highest 8 - amount bits of
    the value, and what lies between for amounts between whole numbers. Magnitude 1 is 4 bits lost
    (Cubuk et al. 2019, table 6).

    The gradient is straight through: how far v lies above its step, as a share f of s, is held
    fixed in v - s f. In the amount that is the slope of the mean over values that lie evenly; the
    true derivative knows nothing of the jumps.
    """
    step = column(amounts, images).exp2() / TOP
    whole = ((images.detach() + ROUNDING / TOP) / step.detach()).floor()
    coarse = whole * step.detach()
    if not (images.requires_grad or step.requires_grad):
        return coarse
    share = images.detach() / step.detach() - whole
    straight = images - step * share
    return coarse + (straight - straight.detach())


OPERATION = Operation(
    kind="image",
    apply=Split(coarsen),
    knob=Float(0.0, 7.0, start=1.0, off=0.0, limits=(0.0, 7.0)),
    full=4.0,
    valued=True,
    differentiable=True,
    surrogate=True,
    note="bits lost of eight: at least one is kept; the gradient is straight through",
)
