"""The worker's side: a process that runs plans until the driver is gone.

Messages are JSON: nothing that comes over the line can execute code. After each measurement the
worker waits for the driver's word whether to go on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from hpo.trial import Outcome, Plan

LARGEST_LOG = 10_000_000
KEPT_OF_LOG = 100_000
SHARE_OF_MEMORY = 0.95


def main() -> None:
    line = int(sys.argv[1])
    os.set_inheritable(line, False)  # programs that the objective starts do not hold the line
    connection = Connection(line)
    hello = _receive(connection)
    limit_memory(hello["memory"])
    watch = threading.Thread(target=_watch, args=(hello["driver"], hello["log"]), daemon=True)
    watch.start()
    _serve(connection, hello["spec"])


def _serve(connection: Connection, spec: Mapping[str, Any]) -> NoReturn:
    from hpo.packing import drain_together
    from hpo.problem import load
    from hpo.spec import StudySpec
    from hpo.trial import Plan, failure
    from objectives.training.measurement import Measurement

    def observe(number: int, measurement: Measurement) -> bool:
        _send(connection, {"trial": number, "measurement": measurement.to_json()})
        return bool(_receive(connection).get("go"))

    problem, leaves = None, False
    while True:
        message = _receive(connection)
        if "run" not in message:
            _leave()
        plans = {plan["number"]: Plan.from_json(plan) for plan in message["run"]}

        def tell(number: int, outcome: Outcome, plans: dict[int, Plan] = plans) -> None:
            nonlocal leaves
            del plans[number]
            leaves = leaves or outcome.reason == "oom"  # a fresh process gives all memory back
            told = {"trial": number, "outcome": outcome.to_json(), "leaves": leaves}
            _send(connection, told)

        try:
            if problem is None:
                problem = load(StudySpec.model_validate(spec))
                _send(connection, {"ready": True})
            for number, outcome in drain_together(problem, [*plans.values()], observe):
                tell(number, outcome)
        except BaseException as error:
            for number in [*plans]:
                tell(number, failure(error))


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError:
        _leave()


def _receive(connection: Connection) -> dict[str, Any]:
    try:
        message = json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        _leave()
    assert isinstance(message, dict)
    return message


def _leave() -> NoReturn:
    """Ends at once, with every process the objective left running: none must hold the slot."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def _watch(driver: int, log: str) -> None:
    """Ends this process when the driver is gone, and keeps what the objective prints bounded."""
    while True:
        if os.getppid() != driver:
            _leave()
        keep_short(Path(log))
        time.sleep(0.5)


def keep_short(log: Path) -> None:
    """Shortens a log that has grown too long."""
    with suppress(OSError):
        if log.stat().st_size > LARGEST_LOG:
            shorten(log)


def shorten(log: Path) -> None:
    """Keeps only the end of a log, where what went wrong stands."""
    with log.open("r+b") as file:
        file.seek(-KEPT_OF_LOG, os.SEEK_END)
        tail = file.read(KEPT_OF_LOG)
        file.seek(0)
        file.truncate()
        file.write(b"... much was printed before this and is not kept ...\n" + tail)


def limit_memory(given: int | None) -> None:
    """Makes a runaway objective fail with MemoryError before the machine does."""
    try:
        import resource

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = given or int(total * SHARE_OF_MEMORY)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    except (ImportError, OSError, ValueError):
        return
