"""The worker's side: `python -m hpo.engines._worker FD` runs plans until the driver is gone.

Messages are JSON: nothing that comes over the line can execute code. After each measurement the
worker waits for the driver's word whether to go on.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

LARGEST_LOG = 10_000_000
KEPT_OF_LOG = 100_000
SHARE_OF_MEMORY = 0.95


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    hello = json.loads(connection.recv_bytes())
    for entry in hello["path"]:
        if entry not in sys.path:
            sys.path.append(entry)
    _limit_memory(hello["memory"])
    threading.Thread(target=_watch, args=(os.getppid(), hello["log"]), daemon=True).start()
    _serve(connection, hello["spec"])


def _serve(connection: Connection, spec: Mapping[str, Any]) -> NoReturn:
    from hpo.problem import load
    from hpo.spec import StudySpec
    from hpo.trial import Plan, drain, failure
    from objectives.training.measurement import Measurement

    owner = os.getpid()
    problem = None
    while True:
        message = _receive(connection)
        if "run" not in message:
            _leave(0)
        plan = Plan(**message["run"])

        def observe(measurement: Measurement) -> bool:
            if os.getpid() != owner:  # a process the objective forked came back into our code
                os._exit(0)
            _send(connection, {"measurement": measurement.to_json()})
            return bool(_receive(connection).get("go"))

        try:
            if problem is None:
                problem = load(StudySpec.model_validate(spec))
            outcome = drain(problem, plan, observe)
        except BaseException as error:
            outcome = failure(error)
        if os.getpid() != owner:
            os._exit(0)
        leaves = outcome.reason == "oom"  # a fresh process gives all memory back
        _send(connection, {"outcome": outcome.to_json(), "leaves": leaves})


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError:
        _leave(1)


def _receive(connection: Connection) -> dict[str, Any]:
    try:
        message = json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        _leave(1)
    assert isinstance(message, dict)
    return message


def _leave(code: int) -> NoReturn:
    """Ends at once: a user's exit handlers and threads must not hold the slot."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(driver: int, log: str) -> None:
    """Ends this process when the driver is gone, and keeps what the objective prints bounded."""
    while True:
        time.sleep(0.5)
        if os.getppid() != driver:
            os._exit(1)
        try:
            if Path(log).stat().st_size > LARGEST_LOG:
                _shorten(Path(log))
        except OSError:
            pass


def _shorten(log: Path) -> None:
    with log.open("r+b") as file:
        head = file.read(KEPT_OF_LOG)
        file.seek(0)
        file.truncate()
        file.write(head + b"\n... more was printed and is not kept ...\n")


def _limit_memory(given: int | None) -> None:
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


if __name__ == "__main__":
    main()
