"""Each image's colours turn around grey; the amount is the angle, as a share of a whole turn."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor

YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def turn(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Turns (I, Q) of the colour space YIQ by 2 pi amount, clamped; Y, the luma, stays (the matrix
    of the NTSC standard FCC 73.682, 1953). Magnitude 1 is a fifth of a turn (Chen et al. 2020,
    appendix A, at strength 1)."""
    import torch

    to = torch.tensor(YIQ, dtype=torch.float64)
    angle = 2 * pi * amounts
    # T^-1 R(angle) T = A + cos(angle) B + sin(angle) C
    parts = [torch.zeros(3, 3, dtype=torch.float64) for _ in range(3)]
    parts[0][0, 0] = parts[1][1, 1] = parts[1][2, 2] = parts[2][2, 1] = 1
    parts[2][1, 2] = -1
    still, cosine, sine = ((to.inverse() @ part @ to).to(images) for part in parts)
    whole = still + angle.cos()[:, None, None] * cosine + angle.sin()[:, None, None] * sine
    turned = whole.to(images.dtype) @ images.flatten(2)
    return turned.reshape(images.shape).clamp(0, 1)


OPERATION = Operation(
    kind="image",
    apply=Split(turn),
    knob=Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, 0.5)),
    full=0.2,
    ways="both",
    valued=True,
    channels=3,
    differentiable=True,
    note="a share of the whole circle of colours, either way",
)
