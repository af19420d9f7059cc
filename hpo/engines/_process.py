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
from hpo.engines._worker import keep_short
from hpo.errors import HpoError
from hpo.trial import Reason

if TYPE_CHECKING:
    from hpo.study import Study

# The worker looks for modules where the driver does, and nowhere before that: a folder of the
# user's may be called like one of ours.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from hpo.engines._worker import main; main()"
)


@dataclass
class Worker:
    """A worker process in a session of its own, so that Ctrl-C reaches the driver alone."""

    process: subprocess.Popen[bytes]
    connection: Connection
    name: str
    log: Path
    kills_before: int

    @classmethod
    def start(
        cls, study: Study, index: int, environment: Mapping[str, str], limits: Slots
    ) -> Worker:
        """A new worker that has been told the spec; its output goes to worker-<index>.log."""
        log_file = study.folder.path / f"worker-{index}.log"
        ours, theirs = socket.socketpair()
        try:
            process = _started(theirs.fileno(), log_file, {**os.environ, **environment})
        except OSError as error:
            ours.close()
            raise HpoError(
                f"worker {index} cannot be started: {error.strerror}",
                hint="use fewer --workers, or look at the limits of this machine (ulimit -a)",
                code="no-worker",
            ) from error
        finally:
            theirs.close()
        device = f"cuda:{environment['CUDA_VISIBLE_DEVICES']}"
        device = "cpu" if device == "cuda:" else device
        name = f"{socket.gethostname()}/{index} {device}"
        worker = cls(process, Connection(ours.detach()), name, log_file, _out_of_memory_kills())
        worker.send(
            {
                "spec": study.spec.plain(),
                "memory": limits.memory_per_trial,
                "log": str(log_file),
                "driver": os.getpid(),
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

    def gone(self) -> bool:
        """Whether the process is dead and has nothing more to say.

        A process that the objective forked may hold the line open, so its end alone does not tell.
        """
        return self.process.poll() is not None and not self.connection.poll()

    def why_dead(self) -> tuple[Reason, str]:
        """Why the worker is gone; ends it and everything it started."""
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.end(at_once=True)
            return "lost", "the worker closed its line to the study in the middle of the trial"
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
        keep_short(self.log)


def _started(line: int, log_file: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(line), path],
            pass_fds=[line],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _out_of_memory_kills() -> int:
    """How often the system has killed a process of this control group for memory."""
    try:
        lines = Path("/sys/fs/cgroup/memory.events").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
