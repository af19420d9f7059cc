"""What Ray reads from the environment, set while a study is driven and put back afterwards."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpo.engines._devices import training_variables

# Of a variable that the user has set, his value counts.
_DRIVER = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt is counted, and trials may end
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # the ledger is the truth, Ray's own state is not needed
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # as many are asked for as have room, and no more
    "TUNE_STATE_REFRESH_PERIOD": "1000000000",  # what is asked of a dead cluster never returns
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
}
# Ray clears the handlers of the first when it likes, so its children have their own.
_LOGGERS = ("ray", "ray.tune", "ray.train", "ray.air")
_TAKEN = ("RAY_AUTH_MODE", "PYTHONBREAKPOINT")  # variables that are set on the way
_NOISE = "Failed to fetch metrics"  # of trials, from files that this product does not let Ray write


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Ray as this product uses it: what it has to say goes to the file `log`."""
    before = {name: os.environ.get(name) for name in (*_DRIVER, *_TAKEN)}
    os.environ.update({name: value for name, value in _DRIVER.items() if before[name] is None})
    hook = sys.excepthook
    from ray._private import worker  # Ray sets up its logger, which is taken over here

    handler = logging.FileHandler(log, delay=True)
    handler.addFilter(lambda record: not str(record.msg).startswith(_NOISE))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    kept = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)

    def print_to_log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        loggers[0].warning("\n".join(str(line) for line in data["lines"]))

    # What a cluster has to say of its nodes Ray would print to stdout, where results belong.
    printed = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = print_to_log
    try:
        with _signals():
            yield
    finally:
        worker.print_to_stdstream, sys.excepthook = printed, hook
        for logger, handlers, level, propagate in kept:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _signals() -> Iterator[None]:
    """Puts back the handlers of signals, which Ray and Ray Tune take for themselves and keep."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it is not Python's
                signal.signal(number, handler)


def use_token() -> None:
    """Shows a cluster the token that this machine holds, unless the user has said otherwise.

    Ray does so for a cluster that it starts; one that it only joins turns it away. A cluster that
    wants no token does not mind.
    """
    named = [os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")]
    if any(named) or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def of_workers(cpus: float) -> Mapping[str, str]:
    """The variables every worker is started with."""
    return {
        **training_variables(str(max(1, int(cpus)))),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
