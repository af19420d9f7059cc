"""Feature mask: values of a table are blanked, each with the same probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def mask(rows: Tensor, amount: Tensor, rng: torch.Generator) -> Tensor:
    """Zero in place of each value with probability `amount`, the rest as it was.

    Zero is the mean of standardised columns; nothing is scaled up, unlike in dropout: a value that
    is there has its own size, as in pre-training on masked tables.
    """
    return rows.masked_fill(uniform(rows.shape, rows, rng) < amount[:, None], 0.0)


OPERATION = Operation(
    kind="table",
    apply=mask,
    knob=Float(0.0, 0.8, start=0.03, off=0.0, limits=(0.0, 1.0)),
    full=0.5,
    note="blanks (zero) each value of a row with up to this probability; for standardised columns",
)
