"""Swap noise: values of a table are taken from other rows of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread, uniform
from search_spaces.regularizers._tables import rows

if TYPE_CHECKING:
    import torch


def swap(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each value, with probability `swap_noise`, that of the same column in another row.

    The row is drawn uniformly among the others, for each value anew. A value so keeps to what its
    column holds, whatever its kind; the values of a row no longer belong together. It is the
    corruption of SCARF (Bahri et al. 2022), there by a share of the columns. What an example
    becomes depends on the batch it is in.
    """
    import torch

    table = rows(batch.inputs, "swap_noise")
    count = len(table)
    coin, draw = uniform((2, *table.shape), table, rng)
    away = 1 + (draw * (count - 1)).floor().long().clamp(max=max(count - 2, 0))
    other = (torch.arange(count, device=table.device)[:, None] + away) % count
    swapped = torch.where(coin < spread(h["swap_noise"], coin), table.gather(0, other), table)
    return batch._replace(inputs=swapped)


REGULARIZER = Regularizer(
    knobs={"swap_noise": Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0))},
    batch=swap,
    note="tables only; each value comes from another row of the batch with this probability",
)
