"""What a way downhill on a bilevel problem is, and its state as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor

from hpo.bilevel.implicit.evaluation import Evaluation
from hpo.bilevel.implicit.problem import Bilevel


@dataclass(frozen=True)
class Way:
    """begin: the state at a first point t (m,). advance: the state at the next point that is worth
    a measurement. certified: the last point again, as exactly as what is reported of a chain must
    be. state: the type of states, a frozen dataclass of tensors and numbers with the fields here
    (what is known of the outer loss), iteration, and ended (why it is over, or nothing). how: what
    all three are told last, with `iterations`, the most there can be.
    """

    begin: Callable[[Bilevel, Tensor, Any], Any]
    advance: Callable[[Bilevel, Any, Any], Any]
    certified: Callable[[Bilevel, Any, Any], Evaluation]
    state: type
    how: Any


def packed(record: Any) -> dict[str, Any]:
    """A frozen record of tensors, numbers and such records as dicts and lists of them."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return packed(value)
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        return dict(value) if isinstance(value, Mapping) else value

    return {f.name: plain(getattr(record, f.name)) for f in fields(record)}


def unpacked(kind: type, data: Mapping[str, Any], device: torch.device) -> Any:
    """What `packed` was made from, on a device but for the states of generators. TypeError if the
    data are not those of this kind."""
    hints = get_type_hints(kind)

    def whole(hint: Any, value: Any) -> Any:
        if is_dataclass(hint) and isinstance(hint, type):
            return unpacked(hint, value, device)
        if get_origin(hint) is tuple or isinstance(value, list):
            return tuple(whole(None, one) for one in value)
        if isinstance(value, Mapping):
            return {name: whole(None, one) for name, one in value.items()}
        if isinstance(value, Tensor) and value.dtype != torch.uint8:
            return value.to(device)
        return value

    return kind(**{name: whole(hints.get(name), value) for name, value in data.items()})
