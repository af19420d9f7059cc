"""The ledger's file: an Optuna journal with one writer.

Same format as Optuna's journal file, so its dashboard and commands read it. Because a study has one
writer (the driver, under a lock), no lock is taken for each line, the lines of one step are
written together and made durable once: a trial that was asked for is there whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from hpo.errors import HpoError
from hpo.spool import cut_torn_line


class Journal(BaseJournalBackend):
    """Append-only journal of one writer.

    `read_logs` yields what the file held at opening, then what this writer has appended; lines
    leave memory once they have been read. Opening cuts a torn last line (a writer that died).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        cut_torn_line(path)
        self._file = path.open("ab")
        self._unread: list[str] = []
        self._read = 0
        self._opened = False
        self._held: list[str] | None = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._unread.extend(lines)
        if self._held is not None:
            self._held.extend(lines)
        else:
            self._write(lines)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        if not self._opened:
            self._opened = True
            for log in _logs(self._path):
                self._read += 1
                yield log
            return
        fresh, self._unread = self._unread, []
        self._read += len(fresh)
        for line in fresh:
            yield json.loads(line)

    @contextmanager
    def together(self, durable: bool = True) -> Iterator[None]:
        """Lines appended inside are written in one piece at the end, then made durable."""
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
        finally:
            lines, self._held = self._held, None
            self._write(lines, durable)

    def _write(self, lines: list[str], durable: bool = False) -> None:
        if not lines:
            return
        try:
            self._file.write(("\n".join(lines) + "\n").encode())
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise HpoError(
                f"{self._path}: cannot write the ledger: {error.strerror}",
                hint="make room or give write access, then continue with hpo run --resume",
                code="unwritable",
            ) from error

    def close(self) -> None:
        self._file.close()


class ReadOnlyJournal(BaseJournalBackend):
    """The journal of a study that another process may be writing; never writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise HpoError(f"{self._path}: opened for reading only", code="read-only")

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        for number, log in enumerate(_logs(self._path)):
            if number >= max(self._read, log_number_from):
                self._read = number + 1
                yield log


def _logs(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                log = json.loads(line)
            except ValueError:
                log = None
            if not isinstance(log, dict) or "op_code" not in log:
                raise HpoError(
                    f"{path}:{number}: this line of the ledger is damaged",
                    hint="restore the file from a copy; trials before this line are readable with\n"
                    f"head -n {number - 1} of it saved as the journal of a new folder",
                    code="damaged-ledger",
                )
            yield log
