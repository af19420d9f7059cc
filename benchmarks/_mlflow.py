"""What tracking a study in MLflow costs: one call per value, as scripts usually do, and ours.

Both write the same runs into a fresh SQLite database, in this process, telemetry off. Importing
MLflow and creating the database cost both the same and are not counted.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.spool import Spool
from hpo.tracking import Tracker, default_uri
from hpo.tracking.store import Store

_BEGAN = 1_700_000_000_000  # a fixed time in milliseconds


@dataclass(frozen=True)
class Load:
    """How much is tracked: runs, and params and metric points in each."""

    runs: int = 50
    params: int = 10
    metrics: int = 100


def measure(load: Load | None = None, repeats: int = 3) -> dict[str, Any]:
    """Median CPU and wall seconds of both ways, interleaved, and how many times cheaper ours is."""
    load = load or Load()
    ways: dict[str, Callable[[Path, Load], None]] = {"naive": naive, "ours": ours}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with _database() as template:
        for _ in range(repeats):
            for name, way in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    shutil.copy(template, Path(folder) / "mlflow.db")
                    taken[name].append(_timed(way, Path(folder), load))
    found: dict[str, Any] = {"runs": load.runs, "params": load.params, "metrics": load.metrics}
    for name, pairs in taken.items():
        found[f"{name}_cpu_s"] = round(statistics.median(cpu for cpu, _ in pairs), 3)
        found[f"{name}_wall_s"] = round(statistics.median(wall for _, wall in pairs), 3)
    for clock in ("cpu", "wall"):
        found[f"{clock}_ratio"] = round(found[f"naive_{clock}_s"] / found[f"ours_{clock}_s"], 1)
    return found


def naive(mlruns: Path, load: Load) -> None:
    """One call for each param and each metric point."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(mlruns))
    place = (mlruns / "artifacts").as_uri()
    experiment = client.create_experiment("benchmark", artifact_location=place)
    parent = client.create_run(experiment, run_name="study").info.run_id
    for number in range(load.runs):
        tags = {"mlflow.parentRunId": parent}
        run = client.create_run(experiment, run_name=f"trial {number}", tags=tags).info.run_id
        for index in range(load.params):
            client.log_param(run, f"knob_{index}", index / 10)
        for index in range(load.metrics):
            client.log_metric(run, "val_loss", 1 / (1 + index), step=index)
        client.set_terminated(run)
    client.set_terminated(parent)


def ours(mlruns: Path, load: Load) -> None:
    """Through the spool and the tracker, until everything is in the database."""
    spool = Spool(mlruns / "events.jsonl")
    tracker = Tracker(spool, default_uri(mlruns), mlruns / "artifacts", mlruns / "cursor.json")
    tracker.start()
    spool.append(
        {"event": "study", "time": _BEGAN, "study": "study", "key": "k", "experiment": "benchmark"}
    )
    for number in range(load.runs):
        about = {"trial": number, "attempt": 0}
        values = {f"knob_{index}": index / 10 for index in range(load.params)}
        spool.append({"event": "start", "time": _BEGAN, **about, "params": values, "tags": {}})
        for index in range(load.metrics):
            point = {"step": index, "metrics": {"val_loss": 1 / (1 + index)}, "point": {}}
            spool.append({"event": "measurement", "time": _BEGAN + index, **about, **point})
        spool.append({"event": "end", "time": _BEGAN + 1000, **about, "outcome": "complete"})
    spool.append({"event": "close", "time": _BEGAN + 2000, "status": "finished"})
    delivery = tracker.close(600)
    spool.close()
    if delivery.pending or delivery.error:
        raise RuntimeError(f"not everything was delivered: {delivery}")


def _timed(way: Callable[[Path, Load], None], folder: Path, load: Load) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    way(folder, load)
    return time.process_time() - cpu, time.perf_counter() - wall


@contextmanager
def _database() -> Iterator[Path]:
    """A fresh MLflow database to copy."""
    with tempfile.TemporaryDirectory() as folder:
        Store(default_uri(Path(folder)), Path(folder) / "artifacts")
        yield Path(folder) / "mlflow.db"


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:14} {value}")
