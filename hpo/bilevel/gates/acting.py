"""Which regularizers have a place to act at in a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.regularizer import Regularizer

if TYPE_CHECKING:
    from torch import nn


def acting(
    records: Mapping[str, Regularizer], model: nn.Module
) -> tuple[dict[str, Regularizer], set[str]]:
    """The regularizers that have a place in the model, and the knobs that only the others use:
    without dropout layers, those of dropout and activation noise."""
    from objectives.training.regularization import dropout_sites

    if dropout_sites(model):
        return dict(records), set()
    placed = {name: record for name, record in records.items() if record.activation is None}
    every = {knob for record in records.values() for knob in record.knobs}
    return placed, every - {knob for record in placed.values() for knob in record.knobs}
