"""What a bilevel problem lets one look at, as PNG files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_spaces.errors import HpoError

FOLDER = "pictures"


def save(problem: Any, params: Any, h: Mapping[str, Any], folder: Path) -> list[Path]:
    """The views of a problem at these parameters, written to the folder; none if it has none.

    A view is (rows, columns), grey, or (rows, columns, 3), with values from 0 to 1.
    """
    views = getattr(problem, "views", None)
    if not callable(views):
        return []
    from PIL import Image

    written = []
    with torch.no_grad():
        shown: Mapping[str, Tensor] = views(params, h)
    for name, view in shown.items():
        if view.ndim not in (2, 3) or (view.ndim == 3 and view.shape[2] != 3):
            raise HpoError(
                f"view {name} has shape {tuple(view.shape)}",
                hint="(rows, columns), or (rows, columns, 3)",
                code="bad-view",
            )
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png"
        pixels = (view.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
        written.append(path)
    return written
