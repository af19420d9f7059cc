"""Each image gets darker or brighter; the amount is added to a factor of 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.tones import Linear
from search_spaces.domains import Float

if TYPE_CHECKING:
    from torch import Tensor


def lit(images: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + amount) x, clamped; magnitude 1 is 0.1 to 1.9 (Cubuk et al. 2019, table 6)."""
    import torch

    return (1 + amounts)[:, None], torch.zeros_like(amounts)[:, None]


OPERATION = Operation(
    kind="image",
    apply=Linear(lit),
    knob=Float(0.0, 0.9, start=0.1, off=0.0, limits=(0.0, 1.0)),
    full=0.9,
    ways="both",
    valued=True,
    differentiable=True,
    note="the factor lies up to this much below or above 1",
)
