"""An audit of a hypergradient: training goes on from the same place beside the centre, and what
that does to the validation loss is held against what the gradient said."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpo.bilevel.diagnostics.checks import plain_loss

if TYPE_CHECKING:
    from objectives.training.state import Run

# Trains from a state at fixed free knobs (columns,) for so many steps; gives the validation loss.
TrainFrom = Callable[[Any, Tensor, int], float]


@dataclass(frozen=True)
class Audit:
    """`predicted` and `found`: the slope of the validation loss in each free number."""

    predicted: Sequence[float]
    found: Sequence[float]

    @property
    def agreement(self) -> float:
        """The share of slopes with the sign that was predicted; nan if none is different from 0."""
        pairs = [(p, f) for p, f in zip(self.predicted, self.found, strict=True) if f and p]
        return sum((p > 0) == (f > 0) for p, f in pairs) / len(pairs) if pairs else math.nan

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of predicted and found; nan for fewer than three slopes, or all alike."""
        if len(self.predicted) < 3:
            return math.nan
        ranks = torch.tensor([_ranks(self.predicted), _ranks(self.found)], dtype=torch.float64)
        if bool((ranks.var(1) == 0).any()):
            return math.nan
        return float(torch.corrcoef(ranks)[0, 1])

    def metrics(self) -> dict[str, float]:
        """As metrics, where they are known."""
        both = {"agreement": self.agreement, "rank_correlation": self.rank_correlation}
        return {f"stn/audit_{name}": value for name, value in both.items() if math.isfinite(value)}


def audit(
    train_from: TrainFrom,
    state: Any,
    center: Tensor,
    gradient: Tensor,
    *,
    distance: float,
    steps: int,
) -> Audit:
    """Holds `gradient` (columns,) against difference quotients over +- `distance` around `center`.

    `train_from` gets a copy of `state` at each of its 2 * columns calls, random draws included, so
    that the noise is the same in all of them and cancels in the differences. Raises whatever it
    raises.
    """
    found = []
    for column in range(len(center)):
        losses = []
        for sign in (1, -1):
            point = center.detach().clone()
            point[column] += sign * distance
            losses.append(float(train_from(copy.deepcopy(state), point, steps)))
        found.append((losses[0] - losses[1]) / (2 * distance))
    return Audit(tuple(gradient.detach().double().cpu().tolist()), tuple(found))


def from_run(run: Run, hold: Callable[[Tensor | None], None]) -> TrainFrom:
    """What trains a run on from a state, for `audit`; the run is left wherever that leads.

    `hold` makes the tuner give these free knobs, unperturbed, and learn nothing; None lets it go.
    States are deep copies of `run.state_dict()`, which holds the very tensors of the run.
    """

    def train_from(state: Any, point: Tensor, steps: int) -> float:
        run.load_state_dict(state)
        hold(point)
        try:
            for _ in range(steps):
                run.train_step()
            return plain_loss(run, "validation", sys.maxsize)
        finally:
            hold(None)

    return train_from


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each value in their order; equal ones share the middle of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]
