"""Checkpoint files: tensors and plain data only, so that reading one cannot run code."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from search_spaces.errors import HpoError

FORMAT = 1
_KIND = "hpo-checkpoint"
# A save is put off until this many times what the last one took has passed: at most 2% of the time
# goes into saving, whatever the size of the model and the speed of the disk.
_SHARE = 50


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint so that at any moment the file is the old one or the new one, whole."""
    # One writer per trial: a fixed name leaves at most one stray file after a kill.
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            torch.save({"kind": _KIND, "format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with no content
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        unfinished.unlink(missing_ok=True)
        raise HpoError(
            f"cannot write the checkpoint {path}: {error}",
            hint="is the disk full, or the folder read-only?",
            code="unwritable",
        ) from error


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; HpoError, naming the file, if it is foreign or damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle, end of file, permissions: each has its own exception
        raise _unusable(path, f"cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise _unusable(path, "is not a checkpoint of hpo")
    if content.get("format") != FORMAT:
        raise _unusable(path, f"has format {content.get('format')!r}, this version reads {FORMAT}")
    return content


def require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """HpoError if a checkpoint was written by a trial that differs from this one."""
    for key in sorted(wanted.keys() | found.keys()):
        if found.get(key) != wanted.get(key):
            raise _unusable(
                path,
                f"belongs to another trial ({key} {found.get(key)!r}, here {wanted.get(key)!r})",
            )


def unfit(path: Path, error: Exception) -> HpoError:
    """The error for a checkpoint that does not fit the model, optimizer or tuner of this run."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return _unusable(path, f"does not fit this run ({reason})")


def _unusable(path: Path, reason: str) -> HpoError:
    return HpoError(
        f"checkpoint {path} {reason}",
        hint=f"delete it to train this trial from the start:  rm {path}",
        code="bad-checkpoint",
    )


class Saver:
    """Decides when a checkpoint is worth its time.

    seconds: the least time between two saves; None leaves it to the measured cost of saving, 0
    saves each time. What is trained does not depend on it, only how much a killed trial repeats.
    """

    def __init__(self, path: Path | None, seconds: float | None) -> None:
        self._path = path
        self._seconds = seconds
        self._not_before = 0.0

    def due(self, last: bool) -> bool:
        """Whether to save now; always after the last measurement."""
        return self._path is not None and (last or time.monotonic() >= self._not_before)

    def save(self, content: dict[str, Any]) -> None:
        """Writes the checkpoint and sets the time before which no other is written."""
        if self._path is None:
            return
        begun = time.monotonic()
        save(self._path, content)
        ended = time.monotonic()
        pause = _SHARE * (ended - begun) if self._seconds is None else self._seconds
        self._not_before = ended + pause
