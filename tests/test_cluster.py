"""Faults on a cluster of several nodes: the study pays for none of them twice.

The nodes are processes of this machine, their GPUs numbers; the head runs no trials.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from clusters import Nodes, cluster_running, joined
from studies import X, events, outcomes, run, spec, table

from hpo.errors import NothingSucceeded
from hpo.launch import launch
from hpo.preparation import Launch, spec_from_keywords
from hpo.result import Result, open_study

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("quick")]

FRAGILE = Path(__file__).with_name("toy_fragile.py")
SHORT: dict[str, Any] = {
    "space": {"dropout": None},
    "steps": 12,
    "training": {"evaluations": 4},
    "trials": 1,
}
RAY: dict[str, Any] = {"engine": "ray", "gpus_per_trial": 0}
HALF: dict[str, Any] = {"engine": "ray", "ray": {"cpus_per_trial": 0.5}}
GONE = "its worker, or the node it was on, is gone"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with cluster_running() as nodes, joined(nodes):
        yield nodes


@pytest.fixture
def two(cluster: Nodes) -> Nodes:
    """A cluster of two nodes beside its head, with two processors each; the first has two GPUs."""
    cluster.have(2)
    return cluster


def told_once(result: Result) -> None:
    """Every trial has begun and ended once an attempt, and no step of an attempt came twice."""
    for kind in ("start", "end"):
        seen = Counter((e["trial"], e["attempt"]) for e in events(result, kind))
        assert set(seen.values()) == {1}
    steps = Counter((e["trial"], e["attempt"], e["step"]) for e in events(result, "measurement"))
    assert set(steps.values()) <= {1}
    assert len(result.records) == len({e["trial"] for e in events(result, "end")})


def when(step: int, does: Callable[[], None], kind: str = "measurement") -> Callable[..., None]:
    """A listener that does something, once, at the first measurement from a step on."""
    done: list[bool] = []

    def heard(event: Mapping[str, Any]) -> None:
        if event["event"] == kind and event.get("step", step) >= step and not done:
            done.append(True)
            does()

    return heard


def pid(marks: Path, name: str = "pid") -> int:
    """The process that left the latest mark of a name."""
    latest = max(marks.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime_ns)
    return int(latest.name.rpartition("-")[2])


# -- what trials see ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "at_once", "seen"),
    [(1, 2, ["0", "1"]), (0.5, 4, ["0", "0", "1", "1"]), (2, 1, ["0,1"]), (0, 4, ["none"] * 4)],
)
def test_a_trial_sees_the_gpus_it_was_given_and_no_others(
    mlruns: Path, marks: Path, two: Nodes, share: float, at_once: int, seen: list[str]
) -> None:
    options = {"folder": str(marks), "at_once": at_once}
    result = run(
        mlruns, "sees", trials=at_once, workers=at_once, space=X, gpus_per_trial=share,
        objective_options=options, **HALF,
    )  # fmt: skip
    assert outcomes(result) == ["complete"] * at_once
    found = sorted(path.name.split("-")[1] for path in marks.glob("seen-*"))
    assert found == seen
    told_once(result)


def test_trials_are_pruned_on_every_node(mlruns: Path, marks: Path, two: Nodes) -> None:
    result = run(
        mlruns, "sees", trials=4, workers=4, space=X, prune={"threshold": {"upper": 2.5}},
        objective_options={"folder": str(marks), "at_once": 4, "pruned": True}, **RAY,
    )  # fmt: skip
    assert Counter(outcomes(result)) == {"complete": 1, "pruned": 3}
    nodes = {path.name.split("-")[2] for path in marks.glob("see*-*")}
    assert len(nodes) == 2
    told_once(result)


# -- workers and nodes that die -------------------------------------------------------------------


def test_a_killed_worker_s_trial_goes_on_from_its_checkpoint(
    mlruns: Path, marks: Path, two: Nodes
) -> None:
    options = {"folder": str(marks), "at": 8}
    whole = run(
        mlruns, f"{FRAGILE}:Traced", name="whole", objective_options={"folder": str(marks)}, **SHORT
    )
    result = run(mlruns, f"{FRAGILE}:Fragile", workers=1, objective_options=options, **SHORT, **RAY)
    assert table(result) == table(whole)
    (lost,) = result.records[0].attempts
    assert (lost["reason"], lost["attempt"], lost["step"]) == ("lost", 0, 6)
    assert len(events(result, "start")) == 1
    told_once(result)


def test_a_killed_black_box_begins_anew_as_another_attempt(
    mlruns: Path, marks: Path, two: Nodes
) -> None:
    options = {"folder": str(marks), "at": [3, 5]}
    result = run(mlruns, "killed", trials=1, workers=1, space=X, objective_options=options, **RAY)
    assert outcomes(result) == ["complete"]
    lost = [(a["reason"], a["attempt"], a["step"]) for a in result.records[0].attempts]
    assert lost == [("lost", 0, 2), ("lost", 1, 4)]
    assert {a["message"] for a in result.records[0].attempts} == {GONE}
    assert [e["attempt"] for e in events(result, "start")] == [0, 1, 2]
    told_once(result)


def test_the_trials_of_a_node_that_dies_go_on_elsewhere_within_seconds(
    mlruns: Path, marks: Path, two: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"folder": str(marks)}
    reference = f"{FRAGILE}:Traced"
    whole = run(mlruns, reference, name="whole", objective_options=options, **SHORT)
    moments: list[float] = []

    def dies() -> None:
        moments.append(time.monotonic())
        two.kill(two.of(pid(marks)))

    def heard(event: Mapping[str, Any]) -> None:
        if moments and event["event"] == "measurement" and event["step"] > 6:
            moments.append(time.monotonic())

    described = spec(reference, workers=1, objective_options=options, **SHORT, **RAY)
    result = launch(described, Launch(mlruns, sinks=(when(6, dies), heard)))
    assert table(result) == table(whole)
    (lost,) = result.records[0].attempts
    assert (lost["reason"], lost["attempt"], lost["step"]) == ("lost", 0, 6)
    assert "node" in lost["message"]
    told_once(result)
    with capsys.disabled():
        print(f"\nfrom the loss of a node to the next measurement: {moments[1] - moments[0]:.1f} s")
    assert moments[1] - moments[0] < 30


# -- damaged checkpoints --------------------------------------------------------------------------


def test_a_checkpoint_that_was_cut_is_set_aside_once(mlruns: Path, marks: Path, two: Nodes) -> None:
    reference, options = f"{FRAGILE}:Traced", {"folder": str(marks)}
    whole = run(mlruns, reference, name="whole", objective_options=options, **SHORT)
    trial = mlruns.absolute() / "studies" / "s" / "trials" / "00000"

    def cut() -> None:
        (checkpoint,) = trial.glob("seed-*.pt")
        checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
        (trial / "seed-0.pt.unfinished").write_bytes(b"half")
        os.kill(pid(marks), signal.SIGKILL)

    described = spec(reference, workers=1, objective_options=options, **SHORT, **RAY)
    result = launch(described, Launch(mlruns, sinks=(when(6, cut),)))
    assert table(result) == table(whole)
    told = [(a["reason"], a["attempt"]) for a in result.records[0].attempts]
    assert told == [("lost", 0), ("checkpoint", 0)]
    assert [e["attempt"] for e in events(result, "start")] == [0, 1]
    assert not list(trial.glob("seed-*"))
    told_once(result)


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_a_trial_out_of_gpu_memory_gets_a_whole_gpu_once(
    mlruns: Path, marks: Path, two: Nodes, times: int
) -> None:
    result = run(
        mlruns, "out_of_gpu", trials=4, workers=2, space=X, gpus_per_trial=0.5,
        objective_options={"folder": str(marks), "times": times}, **HALF,
    )  # fmt: skip
    assert outcomes(result) == ["complete" if times == 1 else "failed", *["complete"] * 3]
    first = result.records[0]
    assert [a["reason"] for a in first.attempts] == ["oom"]
    assert first.reason == ("" if times == 1 else "oom")
    assert "OutOfMemoryError" in first.attempts[0]["message"]
    again = sorted(marks.glob(f"x-{first.coordinates['x']}-*"), key=lambda p: p.stat().st_mtime_ns)
    assert len(again) == 2
    assert len({path.name.rpartition("-")[2] for path in again}) == 2  # another process
    told_once(result)


def test_a_worker_that_takes_more_memory_than_a_trial_may_is_out_of_memory(
    mlruns: Path, two: Nodes
) -> None:
    with pytest.raises(NothingSucceeded):
        run(
            mlruns, "allocates", trials=1, workers=1, space=X, memory_per_trial="1GiB",
            objective_options={"gibibytes": 8}, **RAY,
        )  # fmt: skip
    (record,) = open_study("s", mlruns).records
    assert (record.reason, [a["reason"] for a in record.attempts]) == ("oom", ["oom"])


# -- objectives at fault --------------------------------------------------------------------------


def test_an_objective_that_raises_fails_once_and_is_not_tried_again(
    mlruns: Path, two: Nodes
) -> None:
    with pytest.raises(NothingSucceeded, match="expected 3 channels"):
        run(mlruns, "raises", trials=3, workers=1, space=X, **RAY)
    result = open_study("s", mlruns)
    assert [(r.reason, len(r.attempts)) for r in result.records] == [("error", 0)] * 3
    assert not events(result, "retry")
    told_once(result)


@pytest.mark.parametrize("how", ["sleeps", "stops"])
def test_a_trial_that_hangs_is_ended_and_goes_again(
    mlruns: Path, marks: Path, two: Nodes, how: str
) -> None:
    options = {"folder": str(marks), "how": how}
    result = run(
        mlruns, "hangs", trials=2, workers=1, space=X, silence="5s", objective_options=options,
        **RAY,
    )  # fmt: skip
    assert outcomes(result) == ["complete"] * 2
    (again,) = result.records[0].attempts
    assert (again["reason"], again["step"]) == ("lost", 1)
    assert again["message"] == "it gave no sign of life for 5 s (silence)"
    assert not Path(f"/proc/{pid(marks, 'hung')}").exists()
    told_once(result)


def test_a_trial_that_always_hangs_fails_with_the_sentence(
    mlruns: Path, marks: Path, two: Nodes
) -> None:
    options = {"folder": str(marks), "times": 10}
    with pytest.raises(NothingSucceeded, match="it gave no sign of life for 2 s"):
        run(
            mlruns, "hangs", trials=1, workers=1, space=X, silence="2s", retries=1,
            objective_options=options, **RAY,
        )  # fmt: skip
    (record,) = open_study("s", mlruns).records
    assert (record.reason, len(record.attempts)) == ("lost", 1)


# -- in-run methods -------------------------------------------------------------------------------


IN_RUN: list[dict[str, Any]] = [
    {"objective": "digits", "sampler": "stn", "space": {"dropout": None, "l2": None}, "steps": 40},
    {"objective": "kernel_ridge", "sampler": "maid", "sampler_options": {"iterations": 4}},
    {"objective": "data_weights", "sampler": "maid", "sampler_options": {"iterations": 3}},
]


@pytest.mark.parametrize("what", IN_RUN, ids=lambda what: f"{what['objective']}-{what['sampler']}")
def test_what_a_method_finds_inside_a_run_is_the_same_as_on_this_machine(
    mlruns: Path, two: Nodes, what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # sums over threads differ in their last digits
    found = []
    for name, engine in (("here", {}), ("there", RAY)):
        keywords = {"name": name, "trials": 2, "workers": 1, "mlflow": False, **what, **engine}
        result = launch(spec_from_keywords(**keywords), Launch(mlruns))
        found.append((table(result), [record.schedule for record in result.records]))
    assert found[0] == found[1]
    assert outcomes(result) == ["complete"] * 2
