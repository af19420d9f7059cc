"""Regularizers that cannot be used together."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer


def refuse_clashes(regularizers: Mapping[str, Regularizer]) -> None:
    """HpoError where two of them say where a gradient is taken, or one mixes examples that another
    compares with themselves."""
    uphill = sorted(name for name, record in regularizers.items() if record.ascent is not None)
    if len(uphill) > 1:
        raise _clash(
            f"{' and '.join(uphill)} both say where the gradient of a step is taken", uphill
        )
    mixing = sorted(name for name, record in regularizers.items() if record.stage == "mix")
    whole = sorted(name for name, record in regularizers.items() if record.whole)
    if mixing and whole:
        raise _clash(
            f"{whole[0]} compares an example with itself, and {mixing[0]} blends it with others",
            [whole[0], mixing[0]],
        )


def _clash(message: str, names: list[str]) -> HpoError:
    return HpoError(
        message,
        hint=f"leave one of {', '.join(names)} out of the space",
        code="clash",
        found=names,
    )
