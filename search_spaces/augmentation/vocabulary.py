"""What a task says of its tokens, and operations that need not know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces._numbers import shown
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.passes import Beginning

PAD, MASK, FIRST = 0, 1, 2  # the numbers of tokens in operations; words begin at FIRST


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a task that stand for no word.

    pad: fills rows up. mask: stands where a word is hidden; where a task has none the padding does,
    as in word dropout. parts: for each token the two that byte-pair encoding merged into it, (V,
    2), and -1 for those that it did not make; None where a task does not say.
    """

    pad: int = 0
    mask: int | None = None
    parts: Tensor | None = None

    @staticmethod
    def of(task: object) -> Vocabulary:
        """What a task says with its attributes pad_token, mask_token and token_parts, if any."""
        parts = getattr(task, "token_parts", None)
        if parts is not None and (parts.ndim != 2 or parts.shape[1] != 2):
            raise HpoError(
                f"token_parts has shape {tuple(parts.shape)}",
                hint="it is a tensor (V, 2): the two parts of each token, -1 where it has none",
                code="bad-task",
            )
        mask = getattr(task, "mask_token", None)
        pad = _token("pad_token", getattr(task, "pad_token", 0))
        return Vocabulary(pad, None if mask is None else _token("mask_token", mask), parts)

    @staticmethod
    def seen(beginning: Beginning) -> Vocabulary:
        """That of the task of a run."""
        return beginning.vocabulary


def _token(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise HpoError(
            f"{name} is {shown(value)}: a token is a whole number",
            hint="for example pad_token = 0, as in nn.Embedding(padding_idx=0)",
            code="bad-task",
        )
    return value


def renumbered(
    tokens: Tensor, vocabulary: Vocabulary, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """The tokens after a change that is made while PAD is padding, MASK hides a word and words have
    the numbers from FIRST on."""
    import torch

    pad = vocabulary.pad
    mask = pad if vocabulary.mask is None else vocabulary.mask
    plain = torch.where(tokens == mask, MASK, tokens.long() + FIRST)
    changed = change(torch.where(tokens == pad, PAD, plain))
    back = torch.where(changed == MASK, mask, changed - FIRST)
    return torch.where(changed == PAD, pad, back).to(tokens.dtype)
