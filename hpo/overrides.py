"""Values given outside the study file (`--set`, options), laid over it and named in errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpo.document import Document
from hpo.errors import HpoError, SpecError, exit_code
from hpo.masking import without_password
from hpo.yamlfile import scalar
from search_spaces import presets

# The keys of a knob in a study file; a name of a knob may hold dots, and even such a word.
KNOB_KEYS = frozenset({"low", "high", "scale", "start", "size", "off", "schedule", "when"}) | {
    "options"
}
_GOALS = {"minimize": "maximize", "maximize": "minimize"}


@dataclass(frozen=True)
class Override:
    """One value given outside the file: `path` in the spec, and the `origin` errors name."""

    path: tuple[str, ...]
    value: Any
    origin: str


def override(text: str) -> Override:
    """`KEY=VALUE` of the command line, VALUE read as YAML.

    Raises HpoError without a `=`, or for a list, mapping or quoted text that cannot be read.
    """
    origin = without_password(f"--set {text}")
    key, found, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not found or not all(path):
        raise HpoError(
            f"{origin}: write KEY=VALUE", hint="for example --set budget.trials=8", code="set"
        )
    read = scalar(value)
    if read == value and value.lstrip().startswith(("[", "{", '"', "'")):
        raise HpoError(
            f"{origin}: {value} is not YAML",
            hint="close the bracket or the quote; the shell may have taken quotes away",
            code="set",
        )
    return Override(path, read, origin)


def laid_over(data: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """`data` with each override in its place, the later ones over the earlier.

    Raises HpoError where an override goes into something that holds no keys.
    """
    result: dict[str, Any] = dict(data)
    for change in overrides:
        path = _resolved(change, result).path
        if path[0] == "space" and len(path) > 1 and result.get("space") is not None:
            result["space"] = _spelled_out(result["space"])
        target = result
        for key in path[:-1]:
            target[key] = _opened(target.get(key), change, key)
            target = target[key]
        target[path[-1]] = change.value
        if path[0] in _GOALS:  # a goal given as an option replaces the goal of the file
            result.pop(_GOALS[path[0]], None)
    return result


def blamed(error: HpoError, data: Mapping[str, Any], overrides: Sequence[Override]) -> HpoError:
    """`error` with the option that set the value at fault, if an option did."""
    if isinstance(error, SpecError):
        return error
    for change in reversed(overrides):
        path = _resolved(change, data).path
        shared = min(len(path), len(error.path))
        if shared and error.path[:shared] == path[:shared]:
            inside = len(error.path) < len(path) and _holds_keys(data, error.path)
            if not inside:  # else what is wrong with the whole may have been so before
                return _from_option(change, error)
    return error


def _holds_keys(data: Any, path: Sequence[str | int]) -> bool:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return isinstance(data, Mapping)


def _from_option(change: Override, error: HpoError) -> SpecError:
    told = error.message.startswith(change.origin.lstrip("-"))  # --objective X: objective X: …
    blamed = SpecError(
        error.message if told else f"{change.origin}: {error.message}",
        hint=error.hint,
        code=error.code,
        found=error.found,
        suggest=error.suggest,
        path=error.path,
    )
    blamed.status = exit_code(error)
    return blamed


def _resolved(change: Override, data: Mapping[str, Any]) -> Override:
    """The override with the name of a knob in one piece: space.augment.rotate.low is the key low of
    the knob augment.rotate."""
    path = change.path
    if path[0] == "fixed" and len(path) > 2:
        return replace(change, path=("fixed", ".".join(path[1:])))
    if path[0] != "space" or len(path) <= 2:
        return change
    try:
        knobs = _spelled_out(data.get("space") or {})
    except HpoError:
        knobs = {}
    end = _end_of_name(path, change.value, knobs)
    rest = path[end:]
    if len(rest) > 1 and rest[0] == "when":
        rest = ("when", ".".join(rest[1:]))
    return replace(change, path=("space", ".".join(path[1:end]), *rest))


def _end_of_name(path: tuple[str, ...], value: Any, knobs: Mapping[str, Any]) -> int:
    for end in range(len(path), 1, -1):
        if ".".join(path[1:end]) in knobs:
            return end
    if isinstance(value, Mapping | None) and not {"when", "schedule"} & set(path[2:]):
        return len(path)
    return next((i for i in range(len(path) - 1, 1, -1) if path[i] in KNOB_KEYS), len(path))


def _spelled_out(space: Any) -> dict[str, Any]:
    """A space as keys and values, so that one knob of a preset can be changed."""
    try:
        return presets.resolve(space)
    except HpoError as error:
        raise error.under("space") from None


def _opened(value: Any, change: Override, key: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or key == "prune":
        return {}
    raise SpecError(f"{change.origin}: {key} is {value!r}, which holds no keys", code="set")


def located(error: HpoError, document: Document, overrides: Sequence[Override] = ()) -> HpoError:
    """`error` with its place: the option that set the value, or file, line and column."""
    error = blamed(error, document.data, overrides)
    if isinstance(error, SpecError) or not error.path:
        return error
    return document.locate(error)
