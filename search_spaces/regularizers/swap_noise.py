"""Swap noise: values are taken from other examples of the batch, from the same place in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, real, spread, uniform

if TYPE_CHECKING:
    import torch


def swap(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each value, with probability `swap_noise`, that of the same column in another row.

    The row is drawn uniformly among the others, for each value anew. A value so keeps to what its
    column holds, whatever that is; the values of a row no longer belong together. It is the
    corruption of SCARF (Bahri et al. 2022), there of a fixed share of the columns. What an example
    becomes depends on the batch it is in.
    """
    import torch

    values = real(batch.inputs, "swap_noise")
    rows = len(values)
    coin, draw = uniform((2, *values.shape), values, rng)
    away = 1 + (draw * (rows - 1)).floor().long().clamp(max=max(rows - 2, 0))
    own = torch.arange(rows, device=values.device).reshape(-1, *[1] * (values.ndim - 1))
    chosen = coin < spread(h["swap_noise"], coin)
    swapped = torch.where(chosen, values.gather(0, (own + away) % rows), values)
    return batch._replace(inputs=swapped)


REGULARIZER = Regularizer(
    knobs={"swap_noise": Float(0.0, 0.5, start=0.02, off=0.0, limits=(0.0, 1.0))},
    batch=swap,
    note="meant for tables; each value comes from another example with this probability",
)
