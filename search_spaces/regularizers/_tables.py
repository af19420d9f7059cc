"""Inputs that are rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError
from search_spaces.regularizer import real

if TYPE_CHECKING:
    from torch import Tensor


def rows(inputs: Tensor, user: str) -> Tensor:
    """The inputs if they are a table (B, D) of real numbers; else HpoError."""
    if inputs.ndim != 2:
        raise HpoError(
            f"{user} needs inputs of shape (B, D), found {tuple(inputs.shape)}",
            hint="it is for tables: leave this knob out",
            code="bad-batch",
        )
    return real(inputs, user)
