"""An exception of the user's code as one line: what it says, and where in their code it arose."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# Code that is not the user's: ours, and what comes with Python.
_LIBRARIES = (
    *(str(_ROOT / package) for package in ("hpo", "objectives", "search_spaces")),
    str(Path(inspect.__file__).parent),
)


def described(error: BaseException) -> str:
    """`ValueError: expected 3 channels  (faces.py:41)`; no place if no code of theirs ran."""
    return one_line(error) + place(error)


def one_line(error: BaseException) -> str:
    """The kind of the exception and the first line of what it says."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = said.strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def place(error: BaseException) -> str:
    """File and line of the innermost code of the user's in the traceback, else nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"  ({Path(error.filename).name}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        foreign = "site-packages" in frame.filename or frame.filename.startswith("<")
        if not foreign and not frame.filename.startswith(_LIBRARIES):
            return f"  ({Path(frame.filename).name}:{frame.lineno})"
    return ""
