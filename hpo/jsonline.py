"""Documents as other programs read them: one JSON object a line, with the version of our format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

FORMAT = 1


def json_line(data: Mapping[str, Any]) -> str:
    """`data` as one JSON object; numbers that JSON has no word for (nan, inf) become null."""
    return json.dumps({"format": FORMAT, **_strict(data)}, default=str)


def _strict(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_strict(value) for value in data]
    return data
