"""Why a worker is gone, from what Ray wrote down of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo.errors import Unavailable
from hpo.trial import Outcome

NO_ENVIRONMENT = "set up runtime environment"  # what Ray says of one that it could not make


def lost(trial: Any) -> Outcome:
    """Why Ray says that the worker of a trial is gone, in one line."""
    said = _error(trial)
    if "OutOfMemoryError" in said:
        return Outcome("failed", "oom", "Ray ended the worker: the node's memory ran out")
    if "does not exist on storage" in said:
        return Outcome(
            "failed",
            "lost",
            "its worker does not see the checkpoint it should go on from: machines without a"
            " common folder need ray.storage",
        )
    if "node has died" in said or "node was dead" in said:
        return Outcome("failed", "lost", "the node of its worker is gone")
    if "process has died" in said or "is unavailable" in said:
        return Outcome("failed", "lost", "its worker, or the node it was on, is gone")
    return Outcome("failed", "lost", f"its worker is gone: {_told(said)}")


def refuse_environment(trial: Any) -> None:
    """Raises Unavailable if a worker was not started because its environment cannot be made."""
    said = _error(trial)
    if NO_ENVIRONMENT in said:
        raise Unavailable(
            f"ray: no worker can be started: {_told(said)}",
            hint="mend ray.runtime_env or the nodes, then continue with hpo run --resume",
            code="ray",
            path=("ray", "runtime_env"),
        )


def _told(said: str) -> str:
    """The last line of what Ray has to say."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines or ["no reason given"])[-1]


def _error(trial: Any) -> str:
    """What Ray wrote down of a trial's error."""
    try:
        return Path(trial.local_path, trial.run_metadata.error_filename).read_text()
    except (AttributeError, TypeError, OSError):
        return ""
