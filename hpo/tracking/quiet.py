"""MLflow made patient with us and silent: its environment, its logs, its deprecations."""

from __future__ import annotations

import logging
import os
import threading
import warnings

# A dead server must cost seconds, not the four minutes of MLflow's defaults. A user's own
# settings win.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def settings() -> None:
    """Sets what MLflow reads from the environment and keeps its deprecations off the terminal.

    To be called before MLflow is imported, in the main thread: filters belong to the process.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(mlflow|alembic)\.")


class _Quiet(logging.Filter):
    """Drops what is logged by the threads that asked for it."""

    threads = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.threads, "quiet", False)


_QUIET = _Quiet()


def silence_this_thread() -> None:
    """Keeps what MLflow and its helpers log about our calls off the terminal, not the user's."""
    _QUIET.threads.quiet = True
    for name in ("mlflow", "alembic", "sqlalchemy.engine"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_QUIET)
    logging.getLogger("urllib3.connectionpool").addFilter(_QUIET)
