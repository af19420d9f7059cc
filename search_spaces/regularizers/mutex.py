"""Mutex: examples whose class is unclear learn which classes it is not; the strength is the weight
of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float, Int
from search_spaces.regularizer import Regularizer, Strengths, spread
from search_spaces.regularizers._confidence import precise, reached
from search_spaces.regularizers._nearby import like

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def exclusion(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """-mutex * log(1 - sum of p' over the k least likely classes) where max p is below
    `mutex_threshold`, else zero.

    p is the prediction on the batch, without gradient; p' that on a new view of it; k is
    `mutex_classes`, at most all but one. It is the log-likelihood of the statement that the example
    belongs to none of the k. (After MutexMatch, Duan et al. 2022, where low-confidence examples
    teach a second classifier what they are not. [From memory, and changed: here the one classifier
    learns it, by the complementary labels of Ishida et al. 2017. Tested: the closed form, and that
    the excluded classes lose probability.]) With `consistency` at the same threshold every example
    is used once, as there.
    """

    logits = precise(p.logits("mutex"))
    unclear = 1 - reached(logits, h["mutex_threshold"])
    elsewhere = p.again(p.view().inputs)
    count = like(spread(h["mutex_classes"], logits), logits).round()
    rank = logits.argsort(dim=1).argsort(dim=1)  # 0 for the least likely class
    out = rank < count.clamp(max=logits.shape[1] - 1)
    left = elsewhere.masked_fill(out, float("-inf")).logsumexp(dim=1)
    surprise = elsewhere.logsumexp(dim=1) - left
    return spread(h["mutex"], surprise) * unclear * surprise


REGULARIZER = Regularizer(
    knobs={
        "mutex": Float(0.1, 10.0, scale="log", start=1.0, off=0.0, limits=(0.0, float("inf"))),
        "mutex_threshold": Float(0.5, 0.99, start=0.95, limits=(0.0, 1.0)),
        "mutex_classes": Int(1, 10, start=1, limits=(1, float("inf"))),
    },
    loss_output=exclusion,
    differentiable=True,
    surrogate=True,
    whole=True,
    note="classification only; one more pass a step; how many classes an unclear example is not",
)
