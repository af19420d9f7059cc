"""The study's events on disk, one JSON line each, between the driver and everything that listens.

The driver appends and goes on; readers follow from the byte where they stopped. A line is there
whole or not at all: a torn last line (a driver that died, a full disk) is not read, and is cut
before the next line is written. Numbers that JSON does not know are written as Python writes
them (NaN, Infinity), and read back the same.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]

# What waits in memory while the disk takes nothing. Beyond it new events are counted, not kept.
_MOST_WAITING = 64 * 1024 * 1024


class Spool:
    """An append-only file of events with one writer and any number of readers.

    `append` never raises for a disk that is full or gone: lines wait in memory, in order, and are
    written as soon as the disk takes them. `error` says what is wrong meanwhile, "" if nothing is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error = ""
        self.lost = 0
        self._file: int | None = None
        self._end = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def append(self, event: Event) -> None:
        """Adds one event; it is in the file (not yet forced to disk) when this returns."""
        line = json.dumps(event, separators=(",", ":"), default=_plain).encode() + b"\n"
        if self._waiting_bytes + len(line) > _MOST_WAITING:
            self._try_to_write()
        if self._waiting_bytes + len(line) > _MOST_WAITING:
            self.lost += 1
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._try_to_write()

    def read(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Whole events from byte `offset` on, each with the byte where the next one begins.

        Lines that are no event (damaged by something else) are left out.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                event = _parse(line)
                if event is not None:
                    yield offset, event

    def size(self) -> int:
        """Bytes in the file, a torn last line included."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def repair(self) -> int:
        """Cuts a torn last line; returns how many bytes were cut."""
        return cut_torn_line(self.path)

    def close(self) -> None:
        """Gives the file back. Appending again opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _try_to_write(self) -> None:
        try:
            self._write_waiting()
            self.error = ""
        except OSError as error:
            self.error = f"{self.path}: {error.strerror or error}"

    def _write_waiting(self) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.repair()
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._end = os.fstat(self._file).st_size
        while self._waiting:
            line = self._waiting[0]
            if os.fstat(self._file).st_size != self._end:
                os.ftruncate(self._file, self._end)  # the rest of a line that did not fit
            view = memoryview(line)
            while view:
                view = view[os.write(self._file, view) :]
            self._end += len(line)
            self._waiting.popleft()
            self._waiting_bytes -= len(line)


def cut_torn_line(path: Path) -> int:
    """Cuts what follows the last whole line of the file at `path`; returns the bytes cut."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = keep = file.seek(0, os.SEEK_END)
        while keep:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            file.truncate(keep)
    return size - keep


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _plain(value: Any) -> Any:
    """Plain data for what JSON does not know: scalars of numpy and torch; the rest as text."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return item()
        except (TypeError, ValueError, RuntimeError):
            return str(value)
    return str(value)
