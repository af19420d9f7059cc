"""A YAML text as plain data that remembers the line and column of every key and value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.document import TOP, Document, Path_, Place, shown_line
from hpo.errors import SpecError

_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:@+-]*")
LARGEST_FILE = 200_000
MOST_NODES = 20_000
DEEPEST = 40

_PLAIN_TAGS = {"", "!!map", "!!seq", "!!str", "!!int", "!!float", "!!bool", "!!null"}


def load(source: Path | str, text: str | bytes | None = None) -> Document:
    """The YAML file at `source`, or `text` under the name `source`.

    Numbers such as 1e-6 are numbers; only true and false are booleans; dates are text. Raises
    SpecError with line and column where the text is not YAML, is not a mapping, names a key twice
    or carries a tag (a tag could ask for an object to be built).
    """
    name = str(source)
    if text is None:
        text = _read(Path(source))
    if isinstance(text, bytes):
        text = _decoded(name, text)
    if len(text) > LARGEST_FILE:
        raise _too_large(name)
    given = Document(name, text)
    tree = _parse(given)
    places: dict[Path_, Place] = {}
    data = {} if tree is None else _plain(given, tree, (), places)
    if not isinstance(data, dict):
        raise _at(given, (1, 1), f"a study file holds keys and values, not {_kind(data)}")
    return Document(name, text, data, places)


def dump(data: Mapping[str, Any]) -> str:
    """`data` as YAML text in block style, keys in the given order."""
    import io

    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes null as a word, and text in quotes unless it is plain words."""

    Representer.add_representer(type(None), _null)
    Representer.add_representer(str, _text)
    yaml = YAML()
    yaml.Representer = Representer
    yaml.default_flow_style = None
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(_plain_containers(data), stream)
    return stream.getvalue()


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _text(representer: Any, text: str) -> Any:
    style = None if _PLAIN_TEXT.fullmatch(text) else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def scalar(text: str) -> Any:
    """What YAML reads in `text`: a number, a truth value, null, a list or mapping, or text."""
    given = Document("", text)
    try:
        return _plain(given, _parse(given), (), {})
    except SpecError:
        return text


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4 * LARGEST_FILE + 1)
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml"))[:5]
        hint = f"here: {', '.join(near)}" if near else "hpo init writes one to start from"
        raise SpecError(f"{path}: no such file", hint=hint, code="no-file") from None
    except IsADirectoryError:
        near = sorted(p.name for p in path.glob("*.y*ml"))[:5]
        hint = f"in it: {', '.join(near)}" if near else ""
        message = f"{path}: is a folder, not a study file"
        raise SpecError(message, hint=hint, code="no-file") from None
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", code="no-file") from None
    except ValueError as error:  # a NUL in the name
        raise SpecError(f"{str(path)!r}: {error}", code="no-file") from None


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError(
            f"{name}: is not UTF-8 text (line {line})", hint="save it as UTF-8", code="not-text"
        ) from None


def _too_large(name: str) -> SpecError:
    return SpecError(
        f"{name}: larger than {LARGEST_FILE} characters, which no study file is",
        hint="large data belongs into files that the objective reads",
        code="too-large",
    )


def _parse(given: Document) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError, RoundTripConstructor
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    class Constructor(RoundTripConstructor):
        """Reads dates as the text they are."""

    _refuse_deep(given)
    Constructor.add_constructor("tag:yaml.org,2002:timestamp", Constructor.construct_scalar)
    yaml = YAML(typ="rt", pure=True)
    yaml.Constructor = Constructor
    try:
        return yaml.load(given.text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        key = str(error.problem or "").split('"')[1:2]
        message = f"key {key[0]!r} is given twice" if key else "a key is given twice"
        width = len(key[0]) if key else 1
        raise _at(given, (mark.line + 1, mark.column + 1), message, width=width) from None
    except MarkedYAMLError as error:
        raise _not_yaml(given, error) from None
    except ReaderError as error:
        before = given.text[: error.position]
        place = (before.count("\n") + 1, error.position - before.rfind("\n"))
        message = (
            f"not YAML: the character U+{ord(given.text[error.position]):04X} has no place here"
        )
        raise _at(given, place, message) from None
    except (YAMLError, ValueError, ArithmeticError) as error:
        raise _at(given, (1, 1), f"not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise _at(given, (1, 1), "nested too deeply") from None


def _refuse_deep(given: Document) -> None:
    """Raises SpecError for brackets in brackets beyond use, on which the parser spends minutes."""
    depth = 0
    for bracket in re.finditer(r"[\[{\]}]", given.text):
        depth = depth + 1 if bracket.group() in "[{" else max(0, depth - 1)
        if depth > 2 * DEEPEST:
            before = given.text[: bracket.start()]
            place = (before.count("\n") + 1, bracket.start() - before.rfind("\n"))
            raise _at(given, place, "nested too deeply")


def _not_yaml(given: Document, error: Any) -> SpecError:
    """The parser's own complaint, in one line, where it stands."""
    mark = error.problem_mark or error.context_mark
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = str(error.problem or error.context or "it cannot be read").replace("\n", " ")
    if problem == "but found another document":
        return _at(given, place, "a second document begins here", hint="one study a file")
    hint = "indent with spaces" if r"'\t'" in problem else ""
    start = error.context_mark
    if not hint and start is not None and mark is not None and start.line < mark.line:
        hint = f"{error.context}, which begins at line {start.line + 1}"
    return _at(given, place, f"not YAML: {problem}", hint=hint)


def _at(
    given: Document, place: tuple[int, int], message: str, *, width: int = 1, hint: str = ""
) -> SpecError:
    error = SpecError(message, code="yaml", hint=hint)
    error.file, (error.line, error.column), error.width = given.name, place, width
    error.snippet = shown_line(given.text, error.line, error.column)
    return error


def _plain(given: Document, node: Any, path: Path_, places: dict[Path_, Place]) -> Any:
    where = places.get(path, TOP).value
    if len(places) > MOST_NODES:
        raise _at(given, where, f"more than {MOST_NODES} entries")
    if len(path) > DEEPEST:
        raise _at(given, where, "nested too deeply")
    tag = str(getattr(getattr(node, "tag", None), "value", None) or "")
    tag = tag.replace("tag:yaml.org,2002:", "!!")
    if tag not in _PLAIN_TAGS:
        raise _at(given, where, f"tag {tag} is not allowed in a study file")
    if isinstance(node, Mapping):
        plain: dict[str, Any] = {}
        for key in node:
            name = _key(given, node, key, path, places)
            if name in plain:
                raise _at(given, places[(*path, name)].key, f"key {name!r} is given twice")
            plain[name] = _plain(given, node[key], (*path, name), places)
        return plain
    if isinstance(node, list):
        for index in range(len(node)):
            places[(*path, index)] = _place(node, index, where)
        return [_plain(given, item, (*path, i), places) for i, item in enumerate(node)]
    bare = _bare(node)
    if not isinstance(bare, bool | int | float | str | None):
        raise _at(given, where, "a value with a tag is not allowed in a study file")
    return bare


def _key(given: Document, node: Any, key: Any, path: Path_, places: dict[Path_, Place]) -> str:
    """The key as text; where it and its value stand goes into `places`."""
    place = _place(node, key, places.get(path, TOP).value)
    if not isinstance(key, str | bool | int | float):
        raise _at(given, place.key, "this key is not text")
    name = {True: "true", False: "false"}[key] if isinstance(key, bool) else str(key)
    places[(*path, name)] = place
    return name


def _place(node: Any, key: Any, parent: tuple[int, int]) -> Place:
    where = node.lc.data.get(key) if getattr(node, "lc", None) and node.lc.data else None
    if where is None:  # a merged key (<<) has no place of its own
        return Place(parent, parent)
    first = (where[0] + 1, where[1] + 1)
    return Place(first, (where[2] + 1, where[3] + 1) if len(where) == 4 else first)


def _bare(node: Any) -> Any:
    """Round-trip number and text classes as the plain ones; anything else as it is."""
    if isinstance(node, bool) or node is None:
        return node
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _kind(data: Any) -> str:
    names: dict[type, str] = {str: "text", list: "a list", int: "a number", float: "a number"}
    return names.get(type(data), "a truth value" if isinstance(data, bool) else "this")


def _plain_containers(data: Any) -> Any:
    """`data` with plain containers only: subclasses of dict, tuples and the like made plain."""
    if isinstance(data, Mapping):
        return {str(key): _plain_containers(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain_containers(value) for value in data]
    return data
