"""Group mask: columns of a table that tell the same are blanked together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, Strengths, real, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning


def nearness(beginning: Beginning) -> Tensor:
    """For each column (D, D) the places of all in the order of their correlation with it.

    The column itself has place 0. Correlations are those of the training split, their signs left
    out; a column that is constant is correlated with none.
    """
    import torch

    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    first = None
    for batch in beginning.batches():
        table = _rows(batch.inputs).double()
        first = table[:1] if first is None else first  # sums about a value that occurs stay exact
        table = table - first
        count += len(table)
        total = total.to(table) + table.sum(0)
        squares = squares.to(table) + table.T @ table
    covariance = squares / count - torch.outer(total, total) / count**2
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.outer(deviation, deviation)
    alike = torch.where(scale > 0, covariance.abs() / scale.clamp(min=1e-300), 0.0)
    alike.fill_diagonal_(2.0)  # before every other
    order = alike.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def mask(places: Tensor, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Zero in a share `group_mask` of the columns: a drawn one and those most correlated with it.

    Each row draws its own column. What one column hides the others of its group would otherwise
    tell. Yao et al. (2021, "Self-supervised Learning for Large-scale Item Recommendations") choose
    groups by mutual information; of jointly normal columns that is -log(1 - r^2) / 2, which orders
    them as the correlation r does. Zero is the mean of standardised columns. The number of columns
    is rounded to the nearest.
    """
    table = _rows(batch.inputs)
    columns = table.shape[1]
    seed = (uniform((len(table),), table, rng) * columns).long().clamp(max=columns - 1)
    place = places[seed].to(table)
    hidden = place + 0.5 < spread(h["group_mask"], place) * columns
    return batch._replace(inputs=table.masked_fill(hidden, 0.0))


def _rows(inputs: Tensor) -> Tensor:
    if inputs.ndim != 2:
        raise HpoError(
            f"group_mask needs inputs of shape (B, D), found {tuple(inputs.shape)}",
            hint="it is for tables: leave this knob out",
            code="bad-batch",
        )
    return real(inputs, "group_mask")


REGULARIZER = Regularizer(
    knobs={"group_mask": Float(0.0, 0.8, start=0.1, off=0.0, limits=(0.0, 1.0))},
    batch=mask,
    remember=nearness,
    note="tables only; blanks (zero) so large a share of the columns, correlated ones together",
)
