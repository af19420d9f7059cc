"""A YAML text as plain data that remembers the line and column of every key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.errors import HpoError, SpecError

LARGEST_FILE = 1_000_000
MOST_NODES = 50_000

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Line and column, from 1, of a key and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True)
class Document:
    """Plain data of one YAML text. `places` maps the path of a key to where it stands."""

    name: str
    text: str
    data: dict[str, Any]
    places: Mapping[Path_, Place] = field(default_factory=dict)

    def locate(self, error: HpoError) -> SpecError:
        """`error` with file, line and column, found by its path; the nearest known parent."""
        path: Path_ = tuple(error.path)
        while path and path not in self.places:
            path = path[:-1]
        located = SpecError(
            error.message,
            hint=error.hint,
            code=error.code,
            found=error.found,
            suggest=error.suggest,
            path=error.path,
        )
        located.file = self.name
        if path:
            place = self.places[path]
            of_key = error.found is not None and str(error.found) == str(path[-1])
            located.line, located.column = place.key if of_key else place.value
            located.snippet = self.text.splitlines()[located.line - 1]
        return located


def load(source: Path | str, text: str | None = None) -> Document:
    """The YAML file at `source`, or `text` under the name `source`.

    Numbers such as 1e-6 are numbers; only true and false are booleans.
    Raises SpecError with line and column where the text is not YAML, is not a mapping, names a
    key twice or carries a tag (a tag could ask for an object to be built).
    """
    name = str(source)
    if text is None:
        text = _read(Path(source))
    if len(text) > LARGEST_FILE:
        raise SpecError(f"{name}: {len(text)} characters; a study file has at most {LARGEST_FILE}")
    tree = _parse(name, text)
    if tree is None:
        tree = {}
    places: dict[Path_, Place] = {}
    data = _plain(name, tree, (), places)
    if not isinstance(data, dict):
        raise _at(name, text, 1, 1, f"a study file holds keys and values, not {_kind(data)}")
    return Document(name, text, data, places)


def dump(data: Mapping[str, Any]) -> str:
    """`data` as YAML text in block style, keys in the given order."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(_plain_containers(data), stream)
    return stream.getvalue()


def scalar(text: str) -> Any:
    """What YAML reads in `text`: a number, a truth value, null, a list or mapping, or text."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml"))[:5]
        hint = f"here: {', '.join(near)}" if near else "hpo init writes one to start from"
        raise SpecError(f"{path}: no such file", hint=hint, code="no-file") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder, not a study file", code="no-file") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not UTF-8 text", code="not-text") from None
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", code="no-file") from None


def _parse(name: str, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        key = str(error.problem or "").split('"')[1:2]
        message = f"key {key[0]!r} is given twice" if key else "a key is given twice"
        raise _at(name, text, mark.line + 1, mark.column + 1, message) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _at(name, text, line, column, f"not YAML: {error.problem}") from None
    except (YAMLError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise _at(name, text, 1, 1, f"not YAML: {first}") from None
    except RecursionError:
        raise _at(name, text, 1, 1, "nested too deeply") from None


def _at(name: str, text: str, line: int, column: int, message: str) -> SpecError:
    error = SpecError(message, code="yaml")
    error.file, error.line, error.column = name, line, column
    lines = text.splitlines()
    error.snippet = lines[line - 1] if 0 < line <= len(lines) else ""
    return error


def _plain(name: str, node: Any, path: Path_, places: dict[Path_, Place]) -> Any:
    if len(places) > MOST_NODES:
        raise SpecError(f"{name}: more than {MOST_NODES} entries", code="yaml")
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag and not str(tag).startswith("tag:yaml.org,2002:"):
        where = places.get(path, Place((1, 1), (1, 1)))
        raise _at(name, "", *where.value, f"tag {tag} is not allowed in a study file")
    if isinstance(node, Mapping):
        return {_key(name, key, path): _child(name, node, key, path, places) for key in node}
    if isinstance(node, list):
        return [_child(name, node, index, path, places) for index in range(len(node))]
    if isinstance(node, bool) or node is None:
        return node
    return _bare(node)


def _key(name: str, key: Any, path: Path_) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bool | int | float):
        return str(key)
    place = ".".join(map(str, path)) or "the top"
    raise SpecError(f"{name}: a key under {place} is not text", code="yaml")


def _child(name: str, node: Any, key: Any, path: Path_, places: dict[Path_, Place]) -> Any:
    child = (*path, key if isinstance(node, list) else _key(name, key, path))
    where = node.lc.data.get(key) if getattr(node, "lc", None) and node.lc.data else None
    if where is None:  # a merged key (<<) has no place of its own
        parent = places.get(path, Place((1, 1), (1, 1)))
        places[child] = parent
    elif len(where) == 4:
        places[child] = Place((where[0] + 1, where[1] + 1), (where[2] + 1, where[3] + 1))
    else:
        places[child] = Place((where[0] + 1, where[1] + 1), (where[0] + 1, where[1] + 1))
    return _plain(name, node[key], child, places)


def _bare(node: Any) -> Any:
    """Round-trip number and text classes as the plain ones; anything else as it is."""
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _kind(data: Any) -> str:
    names: dict[type, str] = {str: "text", list: "a list", int: "a number", float: "a number"}
    return names.get(type(data), f"a {type(data).__name__}")


def _plain_containers(data: Any) -> Any:
    """`data` with plain containers only: subclasses of dict, tuples and the like made plain."""
    if isinstance(data, Mapping):
        return {str(key): _plain_containers(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain_containers(value) for value in data]
    return data
