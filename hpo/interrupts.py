"""Ctrl-C and polite kills, counted instead of raised in the middle of a write to the ledger."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """Counts interrupts as long as its block runs.

    Inside `raising` an interrupt raises KeyboardInterrupt as usual: there the user's code runs, and
    may take long. Signals that the program ignores or leaves to the system stay as they are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raising = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raising(self, raises: bool) -> Iterator[None]:
        """Whether an interrupt raises in this block."""
        before, self._raising = self._raising, raises
        try:
            yield
        finally:
            self._raising = before

    def check(self) -> None:
        """Raises KeyboardInterrupt if there has been one."""
        if self.count:
            raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        self.count += 1
        if self._raising:
            raise KeyboardInterrupt
