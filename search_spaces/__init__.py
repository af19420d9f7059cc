"""What is tuned: knobs with their ranges, schedules over training, and regularizers.

Names are imported when they are first used, so that a command line which only needs one error
class does not pay for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_spaces.domains import Choice, Domain, Float, Form, Int, Point, Scalar, Value
    from search_spaces.errors import HpoError
    from search_spaces.regularizer import Batch, Regularizer
    from search_spaces.schedule import Schedule, Track
    from search_spaces.space import SearchSpace

_HOMES = {
    "domains": ("Choice", "Domain", "Float", "Form", "Int", "Point", "Scalar", "Value"),
    "errors": ("HpoError",),
    "regularizer": ("Batch", "Regularizer"),
    "schedule": ("Schedule", "Track"),
    "space": ("SearchSpace",),
}

__all__ = [
    "Batch",
    "Choice",
    "Domain",
    "Float",
    "Form",
    "HpoError",
    "Int",
    "Point",
    "Regularizer",
    "Scalar",
    "Schedule",
    "SearchSpace",
    "Track",
    "Value",
]


def __getattr__(name: str) -> object:
    for module, offered in _HOMES.items():
        if name in offered:
            return getattr(importlib.import_module(f"search_spaces.{module}"), name)
    raise AttributeError(f"module 'search_spaces' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
