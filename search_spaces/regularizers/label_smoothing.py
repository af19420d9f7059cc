"""Label smoothing: a share of every target goes to all classes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer, Strengths, real, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def smooth(targets: Tensor, h: Strengths, rng: torch.Generator) -> Tensor:
    """(1 - strength) * targets + strength / C, for soft targets (B, C) (Szegedy et al. 2016)."""
    if targets.ndim != 2:
        raise HpoError(
            f"label_smoothing needs class probabilities of shape (B, C), found targets of shape "
            f"{tuple(targets.shape)}",
            hint="it has no meaning for regression: leave the knob out of the space",
            code="bad-batch",
        )
    strength = spread(h["label_smoothing"], real(targets, "label_smoothing"))
    return (1 - strength) * targets + strength / targets.shape[1]


REGULARIZER = Regularizer(
    knobs={"label_smoothing": Float(0.0, 0.4, start=0.05, off=0.0, limits=(0.0, 1.0))},
    target=smooth,
    differentiable=True,
    note="classification only",
)
