"""Options given as text and numbers, checked against the parameters of a class or function."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from search_spaces.errors import HpoError
from search_spaces.plugins import closest


def checked(
    target: Callable[..., Any], options: Mapping[str, Any], owner: str, key: str, skip: int = 0
) -> dict[str, Any]:
    """`options` as keyword arguments of `target`, in the types that its annotations name.

    owner: how messages call the thing ("objective digits"); key: where the options stand in a spec;
    skip: how many leading parameters the caller fills itself.
    HpoError for an unknown name, a missing one, or a value of the wrong type.
    """
    parameters = list(inspect.signature(target).parameters.values())[skip:]
    accepted = {
        p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    hints = _hints(target)
    filled: dict[str, Any] = {}
    for name, value in options.items():
        if name not in accepted and not open_ended:
            raise _unknown(str(name), sorted(accepted), owner, key)
        filled[name] = _fit(value, hints.get(name, Any), f"{owner}: option {name}", (key, name))
    missing = [n for n, p in accepted.items() if p.default is p.empty and n not in filled]
    if missing:
        raise HpoError(
            f"{owner} needs {_listed(missing)}",
            hint=f"give {'them' if len(missing) > 1 else 'it'} under {key}",
            code="missing-option",
            path=(key,),
        )
    return filled


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The types that are written down; nothing where they cannot be worked out."""
    try:
        # Of a class, what its constructor takes; asked by name, since a subclass may differ.
        return typing.get_type_hints(vars(target).get("__init__", target))
    except Exception:
        return {}


def _unknown(name: str, accepted: list[str], owner: str, key: str) -> HpoError:
    near = closest(name, accepted)
    guess = f", did you mean '{near}'?" if near else ""
    known = f"known: {', '.join(accepted)}" if accepted else "it takes no options"
    return HpoError(
        f"{owner} has no option '{name}'{guess}",
        hint=known,
        code="unknown-option",
        found=name,
        suggest=near,
        path=(key, name),
    )


def _fit(value: Any, hint: Any, what: str, path: tuple[str, str]) -> Any:
    for option in _alternatives(hint):
        fits, converted = _as(value, option)
        if fits:
            return converted
    raise HpoError(
        f"{what} is {value!r}, but must be {_described(hint)}",
        code="wrong-type",
        found=value,
        path=path,
    )


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _as(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether a value fits one type, and the value in that type."""
    if hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return fits, float(value) if fits else value
    if hint is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        fits = whole and not isinstance(value, bool)
        return fits, int(value) if fits else value
    if hint in (bool, str):
        return isinstance(value, hint), value
    if hint is type(None):
        return value is None, value
    if hint is Path:
        return isinstance(value, str | Path), Path(value) if isinstance(value, str) else value
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint), value
    if typing.get_origin(hint) is tuple:
        fits = isinstance(value, list | tuple)
        return fits, tuple(value) if fits else value
    return True, value  # a type of the user's own: their constructor is the judge


def _described(hint: Any) -> str:
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    words |= {Path: "a file name", type(None): "null"}
    parts = []
    for option in _alternatives(hint):
        if typing.get_origin(option) is Literal:
            parts += [str(word) for word in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            parts.append("a list")
        else:
            parts.append(words.get(option, str(option)))
    return " or ".join(parts)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def whole_number(objective: str, name: str, value: int, low: int, high: int) -> None:
    """HpoError if an option is not in [low, high]."""
    if not low <= value <= high:
        raise HpoError(
            f"objective {objective}: {name} is {value}",
            hint=f"{name} must be {low} to {high}",
            code="bad-option",
            found=value,
            path=("objective_options", name),
        )


def share(objective: str, name: str, value: float) -> None:
    """HpoError if an option is not a share in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise HpoError(
            f"objective {objective}: {name} is {value:g}",
            hint=f"{name} is a share, 0 to 1",
            code="bad-option",
            found=value,
            path=("objective_options", name),
        )


def require_file(path: Path) -> None:
    """HpoError if the file that a table is to be read from is not there."""
    if path.is_file():
        return
    near = closest(path.name, [other.name for other in path.parent.glob("*")])
    guess = f", did you mean '{near}'?" if near else ""
    raise HpoError(
        f"objective table: no such file: {path}{guess}",
        hint="path is a CSV or parquet file, seen from the folder you are in",
        code="no-such-file",
        suggest=near,
        path=("objective_options", "path"),
    )
