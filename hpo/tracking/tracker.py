"""The thread that delivers a study's events to MLflow."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.spool import Spool
from hpo.tracking import cursor as cursors
from hpo.tracking.address import resolve_uri
from hpo.tracking.quiet import settings
from hpo.tracking.sender import Forgotten, Sender
from hpo.tracking.store import Store
from hpo.tracking.trouble import explain, short

_PERIOD = 2.0  # seconds between deliveries
_LONGEST_PAUSE = 60.0  # seconds between tries while MLflow does not answer
_MOST_EVENTS, _MOST_BYTES = 2000, 4_000_000  # held in memory at once

_KEPT = {
    "outage": "the study goes on; they are kept and delivered when it answers",
    "login": "the study goes on; they are kept for the next hpo run --resume or hpo ui",
}


@dataclass(frozen=True)
class Delivery:
    """How many events this tracker delivered, how many wait in the spool, and why they wait."""

    delivered: int
    pending: int
    error: str


class Tracker:
    """Delivers the events of `spool` to MLflow at `uri`, from where the last one stopped.

    Nothing here raises into the driver or makes it wait, but `close`, which waits no longer than
    it is told to. `warn` is called from the tracker's thread with what is wrong, once for each
    kind of trouble. Raises HpoError for an address where no runs can be kept.
    """

    def __init__(
        self,
        spool: Spool,
        uri: str,
        artifact_root: Path,
        cursor: Path,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._spool, self._uri, self._artifact_root = spool, resolve_uri(uri), artifact_root
        self._path, self._warn = cursor, warn
        self._cursor = cursors.load(cursor, self._uri)
        self._cursor.offset = min(self._cursor.offset, spool.size())
        self._uncertain = spool.size()
        self._sender: Sender | None = None
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._delivered, self._failures = 0, 0
        self._error, self._told = "", set[str]()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to deliver; returns at once."""
        settings()
        self._thread = threading.Thread(target=self._work, name="hpo-tracker", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> Delivery:
        """Delivers what is left, for at most `timeout` seconds; the rest stays in the spool."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._abandon()
                self._error = self._error or f"MLflow was not done within {timeout:g} s"
        pending = sum(1 for _ in self._spool.read(self._cursor.offset))
        lost = f"{self._spool.lost} events did not fit into memory" if self._spool.lost else ""
        return Delivery(self._delivered, pending, self._error or self._spool.error or lost)

    def _abandon(self) -> None:
        """Leaves a thread that hangs in a call to itself; it sends nothing after that call."""
        self._abandoned.set()
        if self._sender is not None:
            self._sender.store.give_up()

    def _work(self) -> None:
        while not self._abandoned.is_set():
            last_try = self._closing.is_set()
            began = time.monotonic()
            if self._spool.error:
                self._tell(
                    "spool", f"events wait in memory, the disk takes none: {self._spool.error}"
                )
            try:
                more = self._deliver_some()
                self._failures, self._error = 0, self._sender.problem if self._sender else ""
            except Forgotten:
                self._cursor, more = cursors.fresh(self._uri), True
                self._sender, self._uncertain = None, self._spool.size()
            except Exception as error:  # whatever MLflow raises must not end the thread
                self._failed(error)
                more = False
            if last_try and not more:
                return
            self._closing.wait(self._pause(more, time.monotonic() - began))

    def _pause(self, more: bool, took: float) -> float:
        """Seconds to rest: as long as the delivery took, so that the driver has half the time."""
        if self._failures:
            doubled = min(self._failures - 1, 16)  # a day of failures is no float any more
            return min(_LONGEST_PAUSE, _PERIOD * 2.0**doubled)
        return took if more else max(_PERIOD, took)

    def _deliver_some(self) -> bool:
        """Delivers the next stretch of events; whether there may be more."""
        events = self._next()
        if not events:
            return False
        end = events[-1][0]
        if self._sender is None:
            store = Store(self._uri, self._artifact_root)
            if self._abandoned.is_set():
                store.give_up()
            self._sender = Sender(store, self._spool, self._cursor, self._uncertain)
        try:
            self._sender.send(events)
        except Exception:
            # any of its runs may have been made; from now on they are looked for
            self._sender.uncertain = max(self._sender.uncertain, end)
            raise
        self._cursor.offset = end
        self._delivered += len(events)
        if self._sender.problem:
            self._tell("refused", f"MLflow refused something: {short(self._sender.problem)}")
        self._save()
        return True

    def _next(self) -> list[tuple[int, dict[str, Any]]]:
        events: list[tuple[int, dict[str, Any]]] = []
        start = self._cursor.offset
        if self._spool.size() <= start:
            return events
        for offset, event in self._spool.read(start):
            events.append((offset, event))
            if len(events) >= _MOST_EVENTS or offset - start > _MOST_BYTES:
                break
        return events

    def _save(self) -> None:
        """Keeps the cursor. Failing to is no outage: the next tracker then sends some again."""
        if self._abandoned.is_set():
            return
        try:
            self._cursor.save(self._path)
        except OSError as error:
            self._tell("cursor", f"cannot write {self._path}: {error.strerror or error}")

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        trouble = explain(error, self._uri)
        self._error = trouble.text
        lines = [f"MLflow does not take metrics: {trouble.text}", _KEPT[trouble.kind]]
        if trouble.hint:
            lines.insert(1, trouble.hint)
        self._tell(trouble.kind, "\n".join(lines))

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            with contextlib.suppress(Exception):
                self._warn(text)
