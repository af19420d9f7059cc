"""Why a worker is gone, from what Ray wrote down of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo.trial import Outcome


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
    if "node" in said and ("died" in said or "dead" in said or "removed" in said):
        return Outcome("failed", "lost", "the node of its worker is gone")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return Outcome("failed", "lost", f"its worker is gone: {(lines or ['no reason given'])[-1]}")


def _error(trial: Any) -> str:
    """What Ray wrote down of a trial's error."""
    try:
        return Path(trial.local_path, trial.run_metadata.error_filename).read_text()
    except (AttributeError, TypeError, OSError):
        return ""
