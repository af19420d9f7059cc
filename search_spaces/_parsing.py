"""From the keys of a study file to a domain, on top of the default of the knob."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from search_spaces._numbers import number, shown, whole
from search_spaces._scales import FLOAT_SCALES, check_scale
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

RANGE_KEYS = ("low", "high", "scale", "start", "size", "off", "schedule", "when")
CHOICE_KEYS = ("options", "start", "when")
KEYS = (*RANGE_KEYS, "options")
INT_WORDS = {"int": "linear", "int log": "log"}


def parse_domain(name: str, data: object, base: Domain | None) -> Domain:
    """The domain that `data` describes; what it leaves out comes from `base`.

    A start of `base` that the new range leaves out gives way to the middle of that range.
    """
    if data is None and base is not None:
        return base
    try:
        return _build(name, _keys(name, data), base)
    except HpoError as error:
        raise error.under(name) from None


def _keys(name: str, data: object) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        if isinstance(data, list | tuple):
            hint = f"for a choice write {name}: {{options: [...]}}"
        else:
            hint = f"to hold it constant put it under fixed:, as {name}: {shown(data)}"
        raise HpoError(
            f"{name}: {shown(data)} is not a range such as {{low: 0, high: 1}}",
            hint=hint,
            code="bad-type",
            found=data,
        )
    for key in data:
        if key not in KEYS:
            raise unknown("key", key, KEYS, hint=f"known: {', '.join(KEYS)}", path=(str(key),))
    return {key: value for key, value in data.items() if value is not None}


def _build(name: str, data: dict[str, Any], base: Domain | None) -> Domain:
    if "options" in data or (isinstance(base, Choice) and not {"low", "high"} & data.keys()):
        return _choice(data, base)
    if isinstance(base, Choice):
        base = None
    missing = [key for key in ("low", "high") if key not in data]
    if base is None and missing:
        raise HpoError(
            f"{name} has no {' and no '.join(missing)}: nothing says what it may be",
            hint="give low and high, or options",
            code="no-range",
        )
    word = data.get("scale")
    whole_numbers = isinstance(base, Int) if word is None else _is_int(word, base)
    return _int(data, base) if whole_numbers else _float(name, data, base)


def _choice(data: dict[str, Any], base: Domain | None) -> Choice:
    for key in data:
        if key not in CHOICE_KEYS:
            raise HpoError(
                f"{key} does not go with options",
                hint="a knob has either a range (low, high, scale) or options",
                code="bad-key",
                found=key,
                path=(key,),
            )
    given: Any = data.get("options", base.options if isinstance(base, Choice) else None)
    when = data.get("when", base.when if base is not None else {})
    start = data.get("start")
    if start is None and base is not None:
        fallback = Choice(given)
        start = base.start if not isinstance(base.start, tuple) else None
        start = start if fallback.contains(start) else None
    return Choice(given, start=start, when=when)


def _is_int(word: object, base: Domain | None) -> bool:
    """Whether a scale asks for whole numbers; log keeps what the knob was."""
    if isinstance(word, str) and word in INT_WORDS:
        return True
    check_scale(word, (*FLOAT_SCALES, *INT_WORDS))
    return isinstance(base, Int) and word in INT_WORDS.values()


def _int(data: dict[str, Any], base: Float | Int | None) -> Int:
    if "size" in data:
        raise HpoError(
            "size does not go with whole numbers: only a real-valued knob can be a vector",
            hint="leave size out",
            code="bad-key",
            path=("size",),
        )
    data = dict(data)
    if "scale" in data:
        data["scale"] = INT_WORDS.get(data["scale"], data["scale"])
    start, off = data.get("start"), data.get("off")
    if base is None or isinstance(base, Int):
        return Int(**_over(data, base, Int))
    # A real-valued knob asked to take whole numbers: what fits is kept.
    for key in ("low", "high"):
        data.setdefault(key, whole(key, getattr(base, key)))
    off = base.off if off is None else off
    data.setdefault("when", base.when)
    kept = {"start": start, "off": off, "schedule": data.get("schedule", base.schedule)}
    return Int(**(data | kept), limits=base.limits)


def _float(name: str, data: dict[str, Any], base: Float | Int | None) -> Float:
    if base is not None and "size" in data:
        _same_size(name, data["size"], base)
    if isinstance(base, Int):  # whole numbers loosened to real ones
        off = base.off if base.off is None else float(base.off)
        base = Float(
            base.low, base.high, off=off, schedule=base.schedule, when=base.when, limits=base.limits
        )
    return Float(**_over(data, base, Float))


def _same_size(name: str, size: object, base: Float | Int) -> None:
    """Refuses another size for a vector: who defined it counts on the one it has."""
    if base.size is not None and whole("size", size) != base.size:
        raise HpoError(
            f"size {shown(size)}: {name} has {base.size} strengths",
            hint="leave size out",
            code="bad-range",
            found=size,
            path=("size",),
        )


def _over(
    data: dict[str, Any], base: Float | Int | None, kind: type[Float | Int]
) -> dict[str, Any]:
    """The fields of the new domain: those of the file, then those of the default."""
    if base is None:
        return data
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(kind)}
    merged = fields | data
    if "start" not in data and base.start is not None:
        probe = kind(**(merged | {"start": None}))
        starts = base.start if isinstance(base.start, tuple) else (base.start,)
        if not all(_fits(probe, start) for start in starts):
            merged["start"] = None
    return merged


def _fits(domain: Float | Int, start: Any) -> bool:
    number("start", start)
    return domain.contains_number(start) if isinstance(domain, Float) else domain.contains(start)
