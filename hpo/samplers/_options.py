"""Option records: frozen dataclasses filled from plain data, every value checked."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

Record = TypeVar("Record")

_LIMITS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "at_least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "at_most": (operator.le, "at most"),
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


def option(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of an option record, with the limits of its value."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most}
    return dataclasses.field(default=default, metadata=limits)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Which option of whom is being read, where it stands in the spec, and its default."""

    owner: str
    key: str
    path: tuple[str, ...]
    default: Any

    def error(self, value: Any, allowed: str) -> HpoError:
        text = repr(value) if isinstance(value, str) else str(value)
        shown = "empty" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
        return HpoError(
            f"{self.owner}: {self.key} is {shown}; {allowed}",
            hint=f"leave {self.key} out for its default, {_plain(self.default)}",
            code="bad-option",
            found=value,
            path=(*self.path, self.key),
        )


def read(
    record: type[Record], given: Mapping[str, Any], owner: str, path: tuple[str, ...]
) -> Record:
    """The record with the given options and its defaults for the rest.

    `owner` is named in errors ("sampler tpe"), `path` leads to the mapping inside the spec.
    Raises HpoError for an unknown option, a wrong type or an impossible value.
    """
    fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    hints = get_type_hints(record)
    values = {}
    for key, value in given.items():
        if key not in fields:
            known = f"{owner} knows: {', '.join(fields)}" if fields else f"{owner} has no options"
            raise unknown("option", key, fields, hint=known, path=(*path, str(key)))
        place = _Place(owner, key, path, fields[key].default)
        values[key] = _checked(value, hints[key], fields[key].metadata, place)
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            hint = f"{owner} knows: {', '.join(fields)}"
            raise HpoError(f"{owner}: {key} is missing", hint=hint, code="bad-option", path=path)
    try:
        return record(**values)
    except HpoError as error:
        raise error.under(*path) from None


def _checked(value: Any, hint: Any, limits: Mapping[str, Any], place: _Place) -> Any:
    """The value as its type says, or the error at its place."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        fits, converted = _as(value, kind)
        if fits:
            break
    else:
        raise place.error(value, f"it must be {' or '.join(_words(kind) for kind in kinds)}")
    if isinstance(converted, int | float) and not isinstance(converted, bool):
        for name, (holds, words) in _LIMITS.items():
            limit = limits.get(name)
            if limit is not None and not holds(converted, limit):
                raise place.error(value, f"it must be {words} {limit:g}")
    return converted


def _as(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value is of a kind, and the value as that kind."""
    if kind is Any:
        return True, value
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind), value
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool, value
    if kind is float and isinstance(value, int | float):
        return math.isfinite(value), float(value)
    if kind is int and isinstance(value, float):  # a YAML file may say 1e3
        return value.is_integer(), int(value) if value.is_integer() else value
    return isinstance(value, kind), value


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return _WORDS.get(kind) or str(kind)


def _plain(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return "null" if default is None else str(default).lower()
