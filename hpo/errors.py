"""The errors a user can cause, each with the exit code the commands end with.

An error says where it is, what was found, what is allowed and what to do; it is never a traceback.
"""

from __future__ import annotations

from search_spaces.errors import HpoError

WIDEST = 100  # characters of a line of the study file that an error shows

__all__ = [
    "Conflict",
    "HpoError",
    "Interrupted",
    "NothingSucceeded",
    "SpecError",
    "Unavailable",
    "exit_code",
    "printable",
    "render",
]


class SpecError(HpoError):
    """A mistake at a known place of a study file.

    `width` is how many characters of the line `snippet` are at fault, `status` the exit code of
    the error before its place was known.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    snippet: str = ""
    width: int = 1
    status: int = 2


class NothingSucceeded(HpoError):
    """A study ended without one successful trial."""


class Unavailable(HpoError):
    """Something asked for is not there: an engine, a GPU, a package, a data set."""


class Conflict(HpoError):
    """The name is taken, or another process drives the study."""


class Interrupted(HpoError):
    """The user stopped the study; its state is saved."""


_EXIT_CODES: dict[type[HpoError], int] = {
    NothingSucceeded: 3,
    Unavailable: 5,
    Conflict: 6,
    Interrupted: 130,
}


def exit_code(error: HpoError) -> int:
    """The exit code of the command that ends with `error`: 2 unless its class has another."""
    if isinstance(error, SpecError):
        return error.status
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 2)


def render(error: HpoError) -> str:
    """The error as a user reads it: place and message, the line with a caret, what to do."""
    if isinstance(error, SpecError) and error.line:
        lines = [f"{error.file}:{error.line}:{error.column}: {error.message}", *_pointed(error)]
    else:
        file = f"{error.file}: " if isinstance(error, SpecError) and error.file else ""
        lines = [f"{file}{error.message}"]
    for line in error.hint.splitlines():
        lines += _folded(line)
    return printable("\n".join(lines))


def _pointed(error: SpecError) -> list[str]:
    if not error.snippet:
        return []
    before, shown = _window(error.snippet, error.column)
    width = max(1, min(error.width, len(shown) - before))
    return [f"{error.line:5} | {shown}", f"      | {' ' * before}{'^' * width}"]


def _folded(line: str) -> list[str]:
    """A list of what is known on lines that fit a screen; anything else as it is."""
    if not line.startswith("known: ") or len(line) <= 1.2 * WIDEST:
        return [line]
    import textwrap

    words, _, command = line.partition("   (")
    folded = textwrap.wrap(words, WIDEST, subsequent_indent=" " * 7, break_on_hyphens=False)
    return [*folded, f"       ({command}"] if command else folded


def _window(line: str, column: int) -> tuple[int, str]:
    """The part of a line around a column, short enough for a screen, and where the column is."""
    line = line.rstrip().replace("\t", " ")
    start = max(0, column - 1 - WIDEST // 2) if len(line) > WIDEST else 0
    return column - 1 - start, line[start : start + WIDEST]


def printable(text: str) -> str:
    """`text` without characters that would steer a terminal; line breaks stay."""
    text = text.replace("\t", "    ")
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
