"""A real PostgreSQL server for tests: of its own folder, user, port and password."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from studies import until

PASSWORD = "s3cret-word"


def programs() -> Path | None:
    """The folder of the server's programs: that of the newest version Debian has, or the path's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _version(program: Path) -> float:
    return float(program.parent.parent.name)


class Server:
    """A server that can be stopped, killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None
        self._programs, self._folder, self._data = found, folder, folder / "data"
        self._user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(folder, self._user["user"], self._user["group"])
        self.port = _free_port()
        secret = folder / "password"
        secret.write_text(PASSWORD)
        self._run("initdb", "-D", self._data, "-U", "owner", "-A", "scram-sha-256", "--no-sync")
        secret.unlink()

    @property
    def url(self) -> str:
        return f"postgresql://owner:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Starts it, if it does not run, and waits until it answers."""
        if self._process is not None:
            return
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                **self._somewhere(),
            )
        until(self._answers)

    def stop(self) -> None:
        """As an administrator does: connections are cut, then all is written and it ends."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a crash does: it has no chance to write anything. (Its children follow it.)"""
        self._end(signal.SIGQUIT)

    def empty(self) -> None:
        """Removes all that studies have left in the database."""
        import psycopg

        with psycopg.connect(self.url) as connection:
            connection.execute("drop schema public cascade")
            connection.execute("create schema public")

    def _end(self, with_signal: int) -> None:
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(timeout=60)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        asked = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self._programs / program, *arguments, "--pwfile", self._folder / "password"]
        done = subprocess.run(command, capture_output=True, check=False, **self._somewhere())
        assert done.returncode == 0, done.stderr.decode()

    def _somewhere(self) -> dict[str, Any]:
        return {**(self._user or {}), "cwd": self._folder}


def _unprivileged() -> dict[str, Any] | None:
    """Whom to be instead of root, whom the server refuses."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running() -> Iterator[Server]:
    """A started server in a folder whose name is short, for its socket, and that others may enter;
    skips the test where PostgreSQL is not installed."""
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
