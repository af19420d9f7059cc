"""Plain data read from a text, with the place of every key and value, to put mistakes at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import HpoError, SpecError, exit_code
from hpo.masking import without_password

Path_ = tuple[str | int, ...]

# Where the value at a place ends on its line: quoted text, or all up to a comma, bracket, comment.
_TOKEN = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|[\[{]|(?:[^,\]}#\s]|[^\S\n](?=[^,\]}#\s]))+""")


@dataclass(frozen=True)
class Place:
    """Line and column, from 1, of a key and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


TOP = Place((1, 1), (1, 1))


@dataclass(frozen=True)
class Document:
    """Plain data of one YAML text. `places` maps the path of a key to where it stands."""

    name: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    places: Mapping[Path_, Place] = field(default_factory=dict)

    def locate(self, error: HpoError) -> SpecError:
        """`error` with file, line and column, found by its path; the nearest known parent.

        A value that was found wrong is pointed at; a key, where it is the key that is wrong or
        nothing was said about the value alone.
        """
        path = self._nearest(tuple(error.path))
        located = SpecError(
            error.message,
            hint=error.hint,
            code=error.code,
            found=error.found,
            suggest=error.suggest,
            path=error.path,
        )
        located.file, located.status = self.name, exit_code(error)
        if path:
            place, key = self.places[path], str(path[-1])
            whole = error.found is None and len(path) > 1
            of_key = (whole or str(error.found) == key) and isinstance(path[-1], str)
            located.line, located.column = place.key if of_key else place.value
            located.snippet = shown_line(self.text, located.line, located.column)
            rest = located.snippet[located.column - 1 :]
            token = _TOKEN.match(rest)
            located.width = len(key) if of_key else len(token.group().rstrip()) if token else 1
        return located

    def _nearest(self, path: Path_) -> Path_:
        """The longest start of a path that stands in the text; a word in a list counts as a key."""
        data: Any = self.data
        for depth, key in enumerate(path):
            if isinstance(data, list) and key in data:
                return (*path[:depth], data.index(key))
            if path[: depth + 1] not in self.places:
                return path[:depth]
            data = data[key]
        return path


def shown_line(text: str, number: int, column: int) -> str:
    """The line of this number, from 1, without passwords; nothing beyond the end, nor where a mask
    would move what stands at the column."""
    lines = text.splitlines()
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    shown = without_password(line)
    return shown if shown[: column - 1] == line[: column - 1] else ""
