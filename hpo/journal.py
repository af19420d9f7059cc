"""The ledger's file: an Optuna journal with one writer.

Same format as Optuna's journal file, so its dashboard and commands read it. Because a study has one
writer (the driver, under a lock), no lock is taken for each line, the lines of one step are
written together and made durable once: a trial that was asked for is there whole or not at all.
For that, every line but the last of such a piece says that there is more, which Optuna ignores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from hpo.errors import HpoError

_MORE = ',"more":true}'


class Journal(BaseJournalBackend):
    """Append-only journal of one writer.

    `read_logs` yields what the file held at opening, then what this writer has appended; lines
    leave memory once they have been read. Opening cuts what is torn at the end (a writer that
    died). What the disk does not take is an HpoError, and stands before all later lines if it takes
    them again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unread: list[str] = []
        self._opened = False
        self._held: list[str] | None = None
        self._unwritten = b""
        try:
            _cut_torn_end(path)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error

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
            for _, log in _logs(self._path):
                yield log
            return
        fresh, self._unread = self._unread, []
        for line in fresh:
            yield json.loads(line)

    @contextmanager
    def together(self, durable: bool = True) -> Iterator[None]:
        """Lines appended inside are written in one piece at the end, then made durable; none of
        them if an error ends the block, so that a half-made trial never comes to be."""
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
        except BaseException:
            self._held = None
            raise
        lines, self._held = self._held, None
        self._write([line[:-1] + _MORE for line in lines[:-1]] + lines[-1:], durable)

    def _write(self, lines: list[str], durable: bool = False) -> None:
        self._unwritten += "".join(f"{line}\n" for line in lines).encode()
        if not self._unwritten:
            return
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
            if durable:
                os.fsync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> HpoError:
        return HpoError(
            f"{self._path}: cannot write the ledger: {error.strerror}",
            hint="make room or give write access, then continue with hpo run --resume",
            code="unwritable",
        )

    def close(self) -> None:
        with suppress(HpoError):  # it has been told
            self._write([])
        os.close(self._file)


class ReadOnlyJournal(BaseJournalBackend):
    """The journal of a study that another process may be writing; never writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._offset = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise HpoError(f"{self._path}: opened for reading only", code="read-only")

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        for offset, log in _logs(self._path, self._offset, self._read):
            self._offset, self._read = offset, self._read + 1
            if self._read > log_number_from:
                yield log


def _cut_torn_end(path: Path) -> None:
    """Cuts what follows the last whole piece."""
    if not path.exists():
        return
    end = keep = 0
    more = f"{_MORE}\n".encode()
    with path.open("r+b") as file:
        for line in file:
            end += len(line)
            if line.endswith(b"\n") and not line.endswith(more):
                keep = end
        if keep < end:
            file.truncate(keep)


def _logs(path: Path, offset: int = 0, before: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole lines from byte `offset` on (`before` lines lie before it), each with its end."""
    with path.open("rb") as file:
        file.seek(offset)
        for number, line in enumerate(file, start=before + 1):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
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
            yield offset, log
