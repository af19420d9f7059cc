"""Token swap: neighbouring words of a text change places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.vocabulary import PAD
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def swap(tokens: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """Each pair of neighbours the other way round with probability `amount`.

    A row falls into pairs from its first token or, as often, from its second. Padding stays where
    it is. A word moves by one place at most: the mildest of the shuffles of Lample et al. (2018).
    """
    import torch

    length = tokens.shape[1]
    place = torch.arange(length, device=tokens.device)
    draws = uniform((len(tokens), length + 1), amount, rng)
    offset = (draws[:, -1:] < 0.5).long()
    step = torch.where((place + offset) % 2 == 0, 1, -1)  # to the other one of the pair
    other = (place + step).expand_as(tokens)
    there = other.clamp(0, length - 1)
    coin = draws.gather(1, torch.minimum(place, there))  # both of a pair look at its first
    moved = (coin < amount[:, None]) & (other == there)
    moved &= (tokens != PAD) & (tokens.gather(1, there) != PAD)
    return tokens.gather(1, torch.where(moved, there, place))


OPERATION = Operation(
    kind="tokens",
    apply=swap,
    knob=Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0)),
    full=0.3,
    note="neighbours change places with up to this probability",
)
