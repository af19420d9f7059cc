"""The errors a user can cause, each with the exit code the commands end with.

An error says where it is, what was found, what is allowed and what to do; it is never a traceback.
"""

from __future__ import annotations

from search_spaces.errors import HpoError

__all__ = [
    "Conflict",
    "HpoError",
    "Interrupted",
    "NothingSucceeded",
    "SpecError",
    "Unavailable",
    "exit_code",
    "render",
]


class SpecError(HpoError):
    """A mistake at a known place of a study file."""

    file: str = ""
    line: int = 0
    column: int = 0
    snippet: str = ""


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
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 2)


def render(error: HpoError) -> str:
    """The error as a user reads it: place and message, the line with a caret, what to do."""
    if not isinstance(error, SpecError) or not error.line:
        return str(error)
    lines = [f"{error.file}:{error.line}:{error.column}: {error.message}"]
    if error.snippet:
        found = str(error.found) if error.found is not None else ""
        width = len(found) if found and error.snippet[error.column - 1 :].startswith(found) else 1
        lines.append(f"{error.line:5} | {error.snippet}")
        lines.append(f"      | {' ' * (error.column - 1)}{'^' * width}")
    if error.hint:
        lines.append(error.hint)
    return "\n".join(lines)
