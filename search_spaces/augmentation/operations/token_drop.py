"""Token drop: words are left out of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.operations._tokens import without
from search_spaces.augmentation.vocabulary import PAD
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def drop(tokens: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """Leaves out each token with probability `amount`; the rest close up, padding follows.

    Random deletion of Wei and Zou (2019). One token always stays, as there. Rows are as long as
    before; one that is padded at its beginning stays so.
    """
    words = tokens != PAD
    draws = uniform(tokens.shape, amount, rng).masked_fill(~words, -1.0)
    kept = (draws >= amount[:, None]) | (draws == draws.amax(1, keepdim=True))
    return without(tokens, words & ~kept)


OPERATION = Operation(
    kind="tokens",
    apply=drop,
    knob=Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.3,
    note="leaves out each token with up to this probability; rows close up",
)
