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
    """(1 - strength) * targets + strength / C, for soft targets (B, C) (Szegedy et al. 2016).

    HpoError for other targets, and for those of a single output: C is at least 2.
    """
    if targets.ndim != 2 or targets.shape[1] < 2:
        raise HpoError(
            f"label_smoothing needs probabilities (B, C) of two or more classes, found targets of "
            f"shape {tuple(targets.shape)}",
            hint="it has no meaning for regression: leave the knob out of the space; two classes"
            " need two outputs and class numbers as targets",
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
