"""The driver's side of one worker process: start it, talk to it, find out why it died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.engines import Slots
from hpo.trial import Reason

if TYPE_CHECKING:
    from hpo.study import Study


@dataclass
class Worker:
    """A worker process in a session of its own, so that Ctrl-C reaches the driver alone."""

    process: subprocess.Popen[bytes]
    connection: Connection
    name: str
    kills_before: int

    @classmethod
    def start(
        cls, study: Study, index: int, environment: Mapping[str, str], limits: Slots
    ) -> Worker:
        """A new worker that has been told the spec; its output goes to worker-<index>.log."""
        ours, theirs = socket.socketpair()
        log_file = study.folder.path / f"worker-{index}.log"
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hpo.engines._worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        device = f"cuda:{environment['CUDA_VISIBLE_DEVICES']}"
        device = "cpu" if device == "cuda:" else device
        name = f"{socket.gethostname()}/{index} {device}"
        worker = cls(process, Connection(ours.detach()), name, _out_of_memory_kills())
        worker.send(
            {
                "spec": study.spec.plain(),
                "path": [str(Path(entry).absolute()) for entry in sys.path],
                "memory": limits.memory_per_trial,
                "log": str(log_file),
            }
        )
        return worker

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; a dead worker is noticed at the next receive."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None if the worker is gone or talks nonsense."""
        try:
            message = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def why_dead(self) -> tuple[Reason, str]:
        """Why the worker is gone; ends it and everything it started."""
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = 0
        self.end(at_once=True)
        if code == -signal.SIGKILL and _out_of_memory_kills() > self.kills_before:
            return "oom", "the system killed the worker: the machine's memory ran out"
        if code < 0:
            return "lost", f"the worker was killed by {signal.Signals(-code).name}"
        return "lost", f"the worker ended with exit code {code} in the middle of the trial"

    def end(self, at_once: bool) -> None:
        """Ends the process and all its children, and waits until it is gone."""
        if not at_once and self.process.poll() is None:
            self.send({"exit": True})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


def _out_of_memory_kills() -> int:
    """How often the system has killed a process of this control group for memory."""
    try:
        lines = Path("/sys/fs/cgroup/memory.events").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
