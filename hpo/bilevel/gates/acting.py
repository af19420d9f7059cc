"""Which regularizers have a place to act at in a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.regularizer import Regularizer

if TYPE_CHECKING:
    from torch import nn

DROPOUT, BRANCH, ATTENTION = "dropout sites", "ends of branches", "attention layers"


def acting(
    records: Mapping[str, Regularizer], model: nn.Module
) -> tuple[dict[str, Regularizer], set[str]]:
    """The regularizers that have a place in the model, and the knobs that only the others use:
    without dropout layers, those of dropout and activation noise."""
    lacking = _lacking(model)
    placed = {name: r for name, r in records.items() if place(r) not in lacking}
    every = {knob for record in records.values() for knob in record.knobs}
    return placed, every - {knob for record in placed.values() for knob in record.knobs}


def place(record: Regularizer) -> str:
    """What a model must have for a regularizer to act, in words; empty where any model will do."""
    if record.activation is not None:
        return BRANCH if record.site == "branch" else DROPOUT
    return ATTENTION if record.attention is not None or record.attends else ""


def _lacking(model: nn.Module) -> set[str]:
    from objectives.training.sites import attention_sites, branch_sites, dropout_sites

    found = {DROPOUT: dropout_sites, BRANCH: branch_sites, ATTENTION: attention_sites}
    return {what for what, sites in found.items() if not sites(model)}
