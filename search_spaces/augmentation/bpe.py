"""Byte-pair encoding of a word, with merges that are left out at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Merges: TypeAlias = Sequence[tuple[str, str]]


def encode(
    word: Sequence[str], merges: Merges, rate: float, rng: torch.Generator
) -> tuple[str, ...]:
    """The tokens of a word: its symbols merged pair by pair, in the order of `merges`.

    Before every merge each pair that could be merged is left out with probability `rate`; where
    none is left the word is done (Provilkov et al. 2020, algorithm 1). Rate 0 is plain byte-pair
    encoding, rate 1 gives the symbols themselves.
    """
    import torch

    rank = {pair: place for place, pair in enumerate(merges)}
    tokens = list(word)
    while True:
        places = [i for i, pair in enumerate(pairwise(tokens)) if pair in rank]
        draws = torch.rand(len(places), generator=rng, device=rng.device).tolist()
        kept = [i for i, draw in zip(places, draws, strict=True) if draw >= rate]
        if not kept:
            return tuple(tokens)
        first = min(kept, key=lambda i: (rank[tokens[i], tokens[i + 1]], i))
        tokens[first : first + 2] = [tokens[first] + tokens[first + 1]]


def parts(merges: Merges, numbers: Mapping[str, int]) -> Tensor:
    """For each token the two it was merged from, (V, 2), -1 where it was not: a task's token_parts.

    numbers: the number of each token. HpoError where a merge speaks of a token that has none.
    """
    import torch

    table = torch.full((max(numbers.values(), default=-1) + 1, 2), -1)
    for left, right in reversed(merges):  # of two ways to a token the first is the usual one
        for token in (left, right, left + right):
            if token not in numbers:
                raise HpoError(
                    f"the merge of {left!r} and {right!r} speaks of {token!r}, which has no number",
                    hint="the vocabulary holds both parts of each merge, and what they become",
                    code="bad-task",
                )
        table[numbers[left + right]] = torch.tensor([numbers[left], numbers[right]])
    return table
