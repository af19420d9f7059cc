"""What benchmarks/ray.py measures, each in a process of its own.

    python -P _ray_programs.py NAME ARGUMENTS

Prints one line of JSON. The script's folder must stay off the path: it holds a file called ray.py.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TRIVIAL = f"{HERE / '_trivial.py'}:sphere"
KNOBS = tuple(f"x{index}" for index in range(5))
SPACE = {name: {"low": -1.0, "high": 1.0} for name in KNOBS}


def stock(trials: int, workers: int, loggers: bool) -> dict[str, float]:
    """Stock Ray Tune with OptunaSearch: time of `fit`, of a function that reports once."""
    if not loggers:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    _started(workers)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def sphere(config: Mapping[str, float]) -> None:
        tune.report({"loss": sum(value * value for value in config.values())})

    tuner = tune.Tuner(
        sphere,
        param_space={name: tune.uniform(-1.0, 1.0) for name in KNOBS},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=trials,
            search_alg=OptunaSearch(sampler=optuna.samplers.TPESampler(seed=0)),
            max_concurrent_trials=workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
    )
    return _timed(tuner.fit)


def ours(trials: int, workers: int) -> dict[str, float]:
    """The same on engine ray, its journal on disk included; what stock has imported before its
    `fit` is imported before this as well."""
    import optuna  # noqa: F401
    from ray import tune  # noqa: F401

    import hpo

    _started(workers)
    return _timed(
        lambda: hpo.run(
            TRIVIAL,
            space=SPACE,
            sampler="tpe",
            trials=trials,
            engine="ray",
            workers=workers,
            mlflow=False,
            mlruns=tempfile.mkdtemp(),
        )
    )


def occupancy(trials: int) -> dict[str, float]:
    """The share of the time that four fake GPUs are in use, by trials of uneven length, from when
    all are in use first to when the last trial begins."""
    import hpo

    _started(8, gpus=4)
    marks = Path(tempfile.mkdtemp())
    hpo.run(
        f"{HERE / '_uneven.py'}:uneven",
        objective_options={"folder": str(marks)},
        space={"x": {"low": 0.0, "high": 1.0}},
        sampler="random",
        trials=trials,
        engine="ray",
        gpus_per_trial=1,
        mlflow=False,
        mlruns=tempfile.mkdtemp(),
    )
    spans = sorted(tuple(json.loads(mark.read_text())) for mark in marks.iterdir())
    begun = [begin for begin, _, _ in spans]
    first, last = begun[3], begun[-1]
    busy = sum(max(0.0, min(end, last) - max(begin, first)) for begin, end, _ in spans)
    gaps = _gaps(spans)
    return {
        "occupancy": busy / (4 * (last - first)),
        "trials": len(spans),
        "mean_seconds": statistics.fmean(end - begin for begin, end, _ in spans),
        "gap": statistics.median(gaps),
    }


def many(trials: int) -> dict[str, float]:
    """As many trials at once, on as many fake processors: how many ran at the same time, what that
    cost the driver, and the memory of all processes of this Ray."""
    import hpo

    _started(trials)
    marks, taken = Path(tempfile.mkdtemp()), []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(5.0):
            taken.append(_memory_mib(os.getpid()))

    threading.Thread(target=watch, daemon=True).start()
    timed = _timed(
        lambda: hpo.run(
            f"{HERE / '_uneven.py'}:waiting",
            objective_options={"folder": str(marks), "seconds": 2.0 * trials + 60},
            space={"x": {"low": 0.0, "high": 1.0}},
            sampler="random",
            trials=trials,
            engine="ray",
            mlflow=False,
            mlruns=tempfile.mkdtemp(),
        )
    )
    stop.set()
    spans = [json.loads(mark.read_text()) for mark in marks.iterdir()]
    most = max(sum(a <= begin < b for a, b, _ in spans) for begin, _, _ in spans)
    reports = sum(count for _, _, count in spans)
    return {
        "at_once": most,
        "reports": reports,
        "driver_ms_a_report": 1000 * timed["cpu"] / reports,
        "all_mib": max(taken),
        **timed,
    }


def _memory_mib(pid: int) -> float:
    """The memory of a process and of all that it has started, shared pages counted once."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, left = 0.0, [pid]
    while left:
        one = left.pop()
        left += children.get(one, [])
        with suppress(OSError, ValueError):
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
            found += int(rollup.partition("Pss:")[2].split()[0]) / 1024
    return found


def same(trials: int) -> dict[str, float]:
    """Whether a seeded sequential study comes to the same table on both engines."""
    import hpo

    _started(os.cpu_count() or 1)
    tables = []
    for engine in ("optuna", "ray"):
        result = hpo.run(
            "digits",
            space="regularization",
            sampler="tpe",
            prune="median",
            trials=trials,
            steps=200,
            seed=3,
            engine=engine,
            ray={"cpus_per_trial": float(os.cpu_count() or 1)},  # threads make a difference
            workers=1,
            mlflow=False,
            mlruns=tempfile.mkdtemp(),
        )
        tables.append(
            [(r.number, r.state, r.value, r.step, dict(r.coordinates)) for r in result.records]
        )
    return {"same": float(tables[0] == tables[1]), "trials": len(tables[0])}


def node(steps: int) -> dict[str, float]:
    """Seconds from the loss of a trial's node to its next measurement elsewhere."""
    import ray
    from ray.cluster_utils import Cluster

    from hpo.launch import launch
    from hpo.preparation import Launch, spec_from_keywords

    os.environ["RAY_AUTH_MODE"] = "disabled"
    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    lost: list[float] = []
    told: list[tuple[float, str]] = []

    def listen(event: Mapping[str, Any]) -> None:
        told.append((time.time(), event["event"]))
        if [kind for _, kind in told].count("measurement") == 3 and not lost:
            threading.Thread(target=_lose, args=(cluster, nodes, lost), daemon=True).start()

    spec = spec_from_keywords(
        objective="digits", sampler="random", trials=1, steps=steps, engine="ray", workers=1,
        mlflow=False,
    )  # fmt: skip
    launch(spec, Launch(Path(tempfile.mkdtemp()), sinks=(listen,)))
    noticed = next(when for when, kind in told if kind == "retry")
    back = next(when for when, kind in told if kind == "measurement" and when > noticed)
    ray.shutdown()
    cluster.shutdown()
    return {"noticed": noticed - lost[0], "seconds": back - lost[0]}


def _lose(cluster: Any, nodes: list[Any], lost: list[float]) -> None:
    """Removes the node on which a trial runs."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    victim = next(node for node in nodes if not free[node.node_id].get("CPU"))
    lost.append(time.time())
    cluster.remove_node(victim, allow_graceful=False)


def _gaps(spans: list[tuple[float, float, str]]) -> list[float]:
    """The waits between a trial and the next one of the same worker."""
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for begin, end, worker in spans:
        by_worker.setdefault(worker, []).append((begin, end))
    return [
        after[0] - before[1]
        for found in by_worker.values()
        for before, after in itertools.pairwise(found)
    ]


def _started(cpus: int, gpus: int = 0) -> None:
    """Ray on this machine, the same for all."""
    warnings.simplefilter("ignore")
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
    )


def _timed(call: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    with redirect_stdout(sys.stderr):
        found = globals()[name](*(json.loads(text) for text in given))
    print(json.dumps(found))
