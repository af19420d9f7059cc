"""One driver for one study: a lock that dies with its holder, and a lease for remote ledgers."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from hpo.errors import Conflict
from hpo.patience import Unreachable

LEASE_SECONDS = 30.0


@dataclass(frozen=True)
class DriverLock:
    """The lock of a study folder; the operating system frees it at any death of its holder."""

    lock: FileLock
    holder: Path

    def renew(self) -> None:
        """Nothing: the lock lasts as long as the process."""

    def release(self) -> None:
        self.holder.unlink(missing_ok=True)
        self.lock.release()


def lock(folder: Path, study: str) -> DriverLock:
    """The lock of the study in `folder`. Raises Conflict if another process holds it."""
    file_lock, holder_file = FileLock(folder / "driver.lock"), folder / "driver.json"
    try:
        file_lock.acquire(timeout=0.3)  # `holder` takes it for a moment, too
    except Timeout:
        raise Conflict(
            f"study {study} is being run by another process{_describe(_read(holder_file))}",
            hint=f"look at it with hpo show {study}, end it with hpo stop {study}",
            code="locked",
        ) from None
    holder_file.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    return DriverLock(file_lock, holder_file)


def holder(folder: Path) -> dict[str, Any] | None:
    """Process and host of the live driver of the study in `folder`, or None."""
    holder_file = folder / "driver.json"
    if not holder_file.exists():
        return None
    probe = FileLock(folder / "driver.lock")
    try:
        probe.acquire(timeout=0)
    except Timeout:
        try:
            found = json.loads(_read(holder_file))
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}
    probe.release()
    return None


class Guard(Protocol):
    """What a driver holds while it drives."""

    def renew(self) -> None: ...

    def release(self) -> None: ...


class _Attributes(Protocol):
    @property
    def user_attrs(self) -> dict[str, Any]: ...

    def set_user_attr(self, key: str, value: Any) -> None: ...


class Lease:
    """The right to drive a study whose ledger is a shared database.

    Raises Conflict if another driver holds it, at the start or, after this one was silent for too
    long (a suspended machine), at a renewal.
    """

    def __init__(self, study: _Attributes, name: str) -> None:
        self._study, self._name, self._renewed = study, name, 0.0
        self._me = {"pid": os.getpid(), "host": socket.gethostname(), "token": secrets.token_hex(8)}
        found = self._found()
        if found.get("until", 0) > time.time() and not _dead(found):
            raise self._taken(found)
        self._write()

    def renew(self) -> None:
        """Extends the lease if a third of it has passed."""
        if time.time() - self._renewed <= LEASE_SECONDS / 3:
            return
        self.extend()

    def extend(self) -> None:
        """Extends the lease now."""
        found = self._found()
        if found.get("token") != self._me["token"]:
            raise self._taken(found)
        self._write()

    def release(self) -> None:
        if self._found().get("token") == self._me["token"]:
            self._study.set_user_attr("hpo:driver", {})

    def _write(self) -> None:
        self._renewed = time.time()
        until = self._renewed + LEASE_SECONDS
        self._study.set_user_attr("hpo:driver", {**self._me, "until": until})

    def _found(self) -> dict[str, Any]:
        return self._study.user_attrs.get("hpo:driver") or {}

    def _taken(self, found: dict[str, Any]) -> Conflict:
        return Conflict(
            f"study {self._name} is being run by another process{_describe(json.dumps(found))}",
            hint=f"its lease ends {LEASE_SECONDS:.0f} s after its last sign of life",
            code="locked",
        )


class KeptLease:
    """A lease that a thread renews, so that it lasts through steps that take long.

    While the database is away it cannot be renewed, nor taken by anyone; the thread goes on trying.
    Raises Conflict like the lease; after the start in the driver's thread, at `renew`.
    """

    def __init__(self, study: _Attributes, name: str) -> None:
        self._lease = Lease(study, name)
        self._taken: Conflict | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {name}", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Nothing, unless the thread has found the lease with another driver."""
        if self._taken is not None:
            raise self._taken

    def check(self) -> None:
        """Looks into the ledger whether the lease is still held, and extends it."""
        self.renew()
        self._lease.extend()

    def release(self) -> None:
        """Frees the study, at once if the database can be reached; else it runs out by itself."""
        self._ending.set()
        self._thread.join()
        with suppress(Unreachable):
            self._lease.release()

    def _keep(self) -> None:
        while not self._ending.wait(LEASE_SECONDS / 15):
            try:
                self._lease.renew()
            except Conflict as taken:
                self._taken = taken
                return
            except Unreachable:
                continue


def _dead(found: dict[str, Any]) -> bool:
    """Whether the holder was on this host and is gone (or had this very process's number)."""
    if found.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return int(found["pid"]) == os.getpid()


def _describe(text: str) -> str:
    try:
        found = json.loads(text)
        return f" (pid {found['pid']} on {found['host']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
