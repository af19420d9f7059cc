"""Named search spaces: what a study may write after `space:` instead of a list of knobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._numbers import shown
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

# A tuple takes each knob with its default range; a mapping says more, as a study file would.
PRESETS: Mapping[str, tuple[str, ...] | Mapping[str, Any]] = {
    "weight_decay": ("weight_decay",),
    "l2": ("l2",),
    "dropout": ("dropout",),
    "input_noise": ("input_noise",),
    "label_smoothing": ("label_smoothing",),
    "mixup": ("mixup",),
    "regularization": ("weight_decay", "dropout", "input_noise", "label_smoothing"),
    "noise": ("dropout", "input_noise"),
    "augment_images": ("augment.rotate", "augment.translate", "augment.erase"),
    "targets": ("label_smoothing", "mixup"),
    "regularization_curves": {
        name: {"schedule": {"kind": "cubic", "knots": 3}}
        for name in ("weight_decay", "dropout", "input_noise", "label_smoothing")
    },
}


def resolve(data: object) -> dict[str, Any]:
    """Knobs and what is said about each, from a preset's name, a list of knobs, or a mapping."""
    if isinstance(data, str):
        if data not in PRESETS:
            hint = f"known: {', '.join(sorted(PRESETS))}   (hpo list spaces)"
            raise unknown("space", data, PRESETS, hint=hint)
        data = PRESETS[data]
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
            hint=f"for example space: regularization; known presets: {', '.join(sorted(PRESETS))}",
            code="bad-type",
            found=data,
        )
    return {str(name): value for name, value in data.items()}
