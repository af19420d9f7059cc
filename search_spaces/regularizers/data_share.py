"""Data share: only the easiest part of a batch counts; the strength is how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, spread

if TYPE_CHECKING:
    from torch import Tensor


def select(losses: Tensor, h: Strengths) -> Tensor:
    """losses * w / share with w = 1 for the easiest share of the batch, else 0, shape (B,).

    Example number r = 0, 1, ... in the order of the losses has w = clip(share B - r, 0, 1): on the
    border it counts in part, which gives the share a gradient. The w add up to share B, so that the
    mean of what is returned is the mean loss of those that count.

    With a cyclical schedule it follows "Cyclical Curriculum Learning", in which the size of the
    training set swings. That paper draws the set once an epoch by the losses of a model trained
    before; here each batch is ordered by its losses of the moment. No pass is saved: those that do
    not count are seen, and have no gradient. Only the abstract of the paper was at hand: the rule
    is this project's own.
    """
    rank = losses.detach().argsort(stable=True).argsort().to(losses.dtype)
    share = spread(h["data_share"], losses)
    return losses * (share * len(losses) - rank).clamp(0, 1) / share


REGULARIZER = Regularizer(
    knobs={"data_share": Float(0.2, 1.0, start=1.0, off=1.0, limits=(0.01, 1.0))},
    loss_example=select,
    differentiable=True,
    note="the easiest share of each batch counts, 1 is all; meant to be scheduled",
)
