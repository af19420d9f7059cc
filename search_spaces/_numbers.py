"""Numbers as they come from a file, checked: what was found is in the message."""

from __future__ import annotations

import math

from search_spaces.errors import HpoError

LARGEST_INT = 2**53  # beyond it doubles skip integers


def shown(value: object) -> str:
    """A value as it is written in a study file, cut when it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return "a huge integer"  # Python refuses to print one of more than 4300 digits
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(key: str, value: object) -> float:
    """The value as a finite float; text, booleans, nan and inf are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise HpoError(
            f"{key} {shown(value)} is {_kind(value)}, a number is due",
            hint=_hint(key, value),
            code="bad-type",
            found=value,
            path=(key,),
        )
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise HpoError(f"{key} is too large: beyond 2**53", code="bad-range", path=(key,))
    if not math.isfinite(value):
        raise HpoError(
            f"{key} is {shown(float(value))}: only finite numbers are possible",
            hint="give a number such as 1e-3",
            code="bad-range",
            path=(key,),
        )
    return float(value)


def whole(key: str, value: object) -> int:
    """The value as an integer; 8.0 counts as one, 8.5 does not."""
    result = number(key, value)
    if not result.is_integer():
        raise HpoError(
            f"{key} {shown(value)} is not a whole number",
            code="bad-type",
            found=value,
            path=(key,),
        )
    return int(result)


def _kind(value: object) -> str:
    kinds = {bool: "a boolean", str: "text", list: "a list", dict: "a mapping", tuple: "a list"}
    for kind, word in kinds.items():
        if isinstance(value, kind):
            return word
    return "empty" if value is None else f"of type {type(value).__name__}"


def _hint(key: str, value: object) -> str:
    if not isinstance(value, str):
        return f"for example {key}: 0.5"
    try:
        float(value)
    except ValueError:
        return f"for example {key}: 0.5"
    return f"write it without quotes, {key}: {value.strip()}"
