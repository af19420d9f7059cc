"""References to an objective in a file, `path/to/file.py:name`: how they are stored and told.

All others (built-in names, `package.module:name`) are given back as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpo.wording import shown


def absolute(reference: str) -> str:
    """The reference as it is stored: the same file from every working directory."""
    file, name = _split(reference)
    if file is None:
        return reference
    return f"{os.path.normpath(file.expanduser().absolute())}:{name}"


def short(reference: str) -> str:
    """The reference as short as it can be written from the current folder."""
    file, name = _split(reference)
    return reference if file is None else f"{shown(file)}:{name}"


def beside(reference: str, document: str) -> str:
    """The reference a study file makes: to a file beside it, else from the current folder."""
    file, name = _split(reference)
    if file is None:
        return reference
    place = Path(document).parent / file
    return f"{place if place.is_file() else file}:{name}"


def _split(reference: str) -> tuple[Path | None, str]:
    file, _, name = reference.rpartition(":")
    return (Path(file), name) if file.endswith(".py") else (None, name)
