"""Named search spaces: what a study may write after `space:` instead of a list of knobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces import plugins
from search_spaces._numbers import shown
from search_spaces.errors import HpoError

# A tuple takes each knob with its default range; a mapping says more, as a study file would.
PRESETS: Mapping[str, tuple[str, ...] | Mapping[str, Any]] = {
    "regularization": ("weight_decay", "dropout", "input_noise", "label_smoothing"),
    "noise": ("dropout", "input_noise"),
    "targets": ("label_smoothing", "mixup"),
    "regularization_curves": {
        name: {"schedule": {"kind": "cubic", "knots": 3}}
        for name in ("weight_decay", "dropout", "input_noise", "label_smoothing")
    },
}


def names() -> list[str]:
    """Every preset; each regularizer is one as well, with its own knobs."""
    return sorted({*PRESETS, *plugins.names("search_spaces.regularizers")})


def resolve(data: object) -> dict[str, Any]:
    """Knobs and what is said about each, from a preset's name, a list of knobs, or a mapping."""
    if isinstance(data, str):
        if data not in PRESETS and data not in names():
            raise plugins.unknown(
                "space", data, names(), hint=f"known: {', '.join(names())}   (hpo list spaces)"
            )
        data = PRESETS.get(data, (data,))
    if isinstance(data, list | tuple):
        for index, name in enumerate(data):
            if not isinstance(name, str):
                raise HpoError(
                    f"{shown(name)} is not the name of a knob",
                    hint="for example space: [weight_decay, dropout]",
                    code="bad-type",
                    path=(index,),
                )
        return dict.fromkeys(data)
    if not isinstance(data, Mapping):
        raise HpoError(
            f"space {shown(data)} is neither a preset nor a mapping of knobs",
            hint=f"for example space: regularization; known presets: {', '.join(names())}",
            code="bad-type",
            found=data,
        )
    return {str(name): value for name, value in data.items()}
