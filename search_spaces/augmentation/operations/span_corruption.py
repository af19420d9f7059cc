"""Span corruption: stretches of a text shrink to one mask each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.operations._tokens import without
from search_spaces.augmentation.vocabulary import MASK, PAD
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPAN = 3  # the mean length that Raffel et al. (2020), section 3.3.4, settle on


def corrupt(tokens: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """One mask in place of every span; a share `amount` of the tokens lies in spans.

    A span of 3 begins at each token with probability q = 1 - (1 - amount)^(1/3), so that a token is
    in none with probability (1 - q)^3 = 1 - amount (the first two of a row are in fewer); spans
    that meet are one. All have the same mask, as in text infilling (Lewis et al. 2020); T5 (Raffel
    et al. 2020) numbers its own. Rows close up and are padded; padding is in no span.
    """
    import torch

    words = tokens != PAD
    begins = 1 - (1 - amount) ** (1 / SPAN)
    hidden = (uniform(tokens.shape, amount, rng) < begins[:, None]) & words
    started = torch.nn.functional.pad(hidden, (SPAN - 1, 0))
    hidden = started.unfold(1, SPAN, 1).any(-1) & words
    after = torch.nn.functional.pad(hidden, (1, 0))[:, :-1]  # one that a hidden one precedes
    return without(tokens.masked_fill(hidden, MASK), hidden & after)


OPERATION = Operation(
    kind="tokens",
    apply=corrupt,
    knob=Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.3,
    note="spans of 3 tokens, up to this share of them, shrink to the task's mask_token",
)
