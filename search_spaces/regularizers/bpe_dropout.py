"""BPE dropout: tokens fall back into the parts that they were merged from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning

DEEPEST = 64


@dataclass(frozen=True)
class Merged:
    """The two parts of each token (V, 2), -1 where it has none; `depth`: in how many rounds every
    token falls into symbols; `pad` fills rows up."""

    parts: Tensor
    depth: int
    pad: int


def merged(beginning: Beginning) -> Merged:
    """The parts that the task tells; HpoError where it does not, or where they lead in a circle."""
    vocabulary = beginning.vocabulary
    if vocabulary.parts is None:
        raise HpoError(
            "bpe_dropout takes tokens apart, and this task does not say into what",
            hint="give the task token_parts, a tensor (V, 2) with the two parts of each token and "
            "-1 where it has none (search_spaces.augmentation.bpe.parts makes it from merges)",
            code="unsuited-task",
        )
    import torch

    parts = vocabulary.parts.long().to(beginning.device)
    reached, depth = parts[(parts >= 0).all(1)].flatten(), 0
    if len(reached):
        depth = 1
    while len(reached := reached[parts[reached, 0] >= 0]):
        reached, depth = torch.unique(parts[reached]), depth + 1
        if depth > DEEPEST:
            raise HpoError(
                f"token_parts: some token is not in symbols after {DEEPEST} rounds of taking apart",
                hint="a token may not be a part of itself",
                code="bad-task",
            )
    return Merged(parts, depth, vocabulary.pad)


def split(memory: Merged, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """The batch with each merged token, and then its parts, taken apart with this probability.

    As if the encoder had left out the last merge of a token. BPE-dropout (Provilkov et al. 2020)
    leaves merges out while it encodes, after which others become possible that plain encoding
    never makes; that takes the words themselves, and `bpe.encode` does it. What both give are the
    segmentations along the merges of a token, at rate 1 its symbols.

    Rows stay as long as they are: a row closes up over padding at its end, and what has no place
    any more is cut off there.
    """
    import torch

    tokens = batch.inputs
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise HpoError(
            f"bpe_dropout needs whole numbers (B, T), found {tokens.dtype} {tuple(tokens.shape)}",
            hint="it is for texts: leave this knob out",
            code="bad-batch",
        )
    draws = uniform((memory.depth, *tokens.shape), torch.zeros((), device=tokens.device), rng)
    coins = draws < spread(h["bpe_dropout"], draws[0]) if memory.depth else draws
    found, whole = tokens.long(), torch.zeros_like(tokens, dtype=torch.bool)
    for coin in coins:
        apart = coin & ~whole & (memory.parts[found, 0] >= 0)
        found, whole = _opened(memory, found, whole | ~apart, apart)
    return batch._replace(inputs=found.to(tokens.dtype))


def _opened(memory: Merged, tokens: Tensor, whole: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """The rows with tokens replaced by their parts, and which are not to be asked again."""
    rows, length = tokens.shape
    place = (apart.long() + 1).cumsum(1) - 1 - apart.long()  # of the token, or of its left part
    left, right = memory.parts[tokens].unbind(-1)
    wide = (rows, 2 * length)
    found = tokens.new_full(wide, memory.pad)
    kept = whole.new_ones(wide)
    beside = place + apart.long()
    # Right parts first: where nothing was taken apart, the token then overwrites itself.
    found = found.scatter(1, beside, right.where(apart, tokens))
    kept = kept.scatter(1, beside, whole)
    found = found.scatter(1, place, left.where(apart, tokens))
    return found[:, :length], kept.scatter(1, place, whole)[:, :length]


REGULARIZER = Regularizer(
    knobs={"bpe_dropout": Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0))},
    batch=split,
    remember=merged,
    note="texts whose task tells token_parts; splits each merged token with this probability",
)
