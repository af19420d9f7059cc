"""Token mask: words of a text are hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.vocabulary import MASK, PAD
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def hide(tokens: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """The task's mask token in place of each token with probability `amount`, never of padding.

    Word dropout (Bowman et al. 2016) where a task has no mask token and the padding stands for it.
    """
    chosen = uniform(tokens.shape, amount, rng) < amount[:, None]
    return tokens.masked_fill(chosen & (tokens != PAD), MASK)


OPERATION = Operation(
    kind="tokens",
    apply=hide,
    knob=Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.3,
    note="hides each token with up to this probability behind the task's mask_token",
)
