"""Nodes that do not have the study's folder: what a trial keeps there travels with its results.

Such a node is a process that sees an empty disk in the place of the folder (a mount namespace).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from clusters import Nodes, below, cluster_running, joined
from rays import QUIET, STORE
from studies import events, outcomes, run, spec, table, until

from hpo.engines._ray.files import FILES, Mirror, receive
from hpo.launch import launch
from hpo.preparation import Launch, spec_from_keywords

FRAGILE = Path(__file__).with_name("toy_fragile.py")
FAR: dict[str, Any] = {
    "engine": "ray",
    "gpus_per_trial": 0,
    "workers": 1,
    "ray": {"resources": {"far": 0.01}},
}
SHORT: dict[str, Any] = {
    "space": {"dropout": None},
    "steps": 12,
    "training": {"evaluations": 4},
    "trials": 1,
}


def living() -> set[str]:
    """The names of the nodes that Ray takes to be alive."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def can_hide() -> bool:
    """Whether this user may put another disk in the place of a folder."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    return tried.returncode == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with cluster_running() as nodes, joined(nodes):
        yield nodes


@pytest.fixture
def far_node(cluster: Nodes, mlruns: Path) -> Iterator[Callable[[], int]]:
    """Adds a node on which the folder of the studies is another, empty one; gives its process."""
    mlruns.mkdir()
    started: list[subprocess.Popen[bytes]] = []
    node = (
        f"mount -t tmpfs none {mlruns} && exec {sys.executable} -m ray.scripts.scripts start"
        f" --address={cluster.address} --num-cpus=1 --object-store-memory={STORE}"
        " --resources='{\"far\": 1}' --disable-usage-stats --block"
    )

    def add() -> int:
        before = living()
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", node],
            env={**os.environ, **QUIET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        until(lambda: living() - before, 120)
        return process.pid

    yield add
    for process in started:
        end(process.pid)
        process.wait()


def end(pid: int) -> None:
    """Kills a process and all that it has started, at once."""
    for one in [pid, *below(pid)]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(not can_hide(), reason="needs a mount namespace of its own")
def test_a_trial_goes_on_from_its_checkpoint_on_another_machine_without_the_folder(
    mlruns: Path, marks: Path, far_node: Callable[[], int]
) -> None:
    reference, options = f"{FRAGILE}:Traced", {"folder": str(marks)}
    whole = run(mlruns, reference, name="whole", objective_options=options, **SHORT)
    first = far_node()
    second: list[float] = []

    def dies(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and event["step"] >= 6 and not second:
            second.append(time.monotonic())
            end(first)
            far_node()

    described = spec(reference, objective_options=options, **SHORT, **FAR)
    result = launch(described, Launch(mlruns, sinks=(dies,)))
    assert table(result) == table(whole)
    (lost,) = result.records[0].attempts
    assert (lost["reason"], lost["step"]) == ("lost", 6)
    assert [e["step"] for e in events(result, "measurement")] == [3, 6, 9, 12]
    assert len(events(result, "start")) == 1
    assert not list(result.folder.path.glob("trials/*/*.pt"))


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(not can_hide(), reason="needs a mount namespace of its own")
def test_pictures_of_a_machine_without_the_folder_arrive_at_the_driver(
    mlruns: Path, far_node: Callable[[], int]
) -> None:
    pytest.importorskip("skimage")
    far_node()
    described = spec_from_keywords(
        name="s", objective="tv_denoise", objective_options={"size": 24, "pictures": 2},
        sampler="maid", sampler_options={"iterations": 2}, trials=2, mlflow=False, **FAR,
    )  # fmt: skip
    result = launch(described, Launch(mlruns))
    assert outcomes(result) == ["complete"] * 2
    for record in result.records:
        pictures = result.folder.trial(record.number) / "pictures"
        assert [path.name for path in pictures.iterdir()] == ["clean_noisy_denoised.png"]
    told = [e.get("artifacts", []) for e in events(result, "end")]
    assert all(len(files) == 1 and Path(files[0]).exists() for files in told)


# -- the mirror alone -----------------------------------------------------------------------------


def worker(study: Path, mark: str) -> dict[str, Any]:
    return {"worker": {"folder": str(study), "mark": mark}}


def test_a_worker_that_sees_the_driver_s_mark_keeps_its_files_where_they_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "driver.json").write_text("mine")
    mirror = Mirror("/a/trial", worker(tmp_path, "mine"))
    assert (mirror.folder, mirror.changed()) == ("/a/trial", {})


def test_only_what_has_changed_is_sent_and_what_is_unfinished_is_not(tmp_path: Path) -> None:
    (tmp_path / "driver.json").write_text("of another machine")
    mirror = Mirror("/a/trial", {**worker(tmp_path, "mine"), FILES: {"seed-0.pt": b"old"}})
    assert mirror.folder is not None and mirror.folder != "/a/trial"
    folder = Path(mirror.folder)
    assert (folder / "seed-0.pt").read_bytes() == b"old"
    assert mirror.changed() == {FILES: {}}
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"picture")
    (folder / "seed-0.pt.unfinished").write_bytes(b"half")
    assert mirror.changed() == {FILES: {"pictures/a.png": b"picture"}}
    assert mirror.changed() == {FILES: {}}
    mirror.remove()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../elsewhere", ".", "/elsewhere", "pictures/../../elsewhere"])
def test_a_worker_writes_nothing_outside_its_trial(tmp_path: Path, name: str) -> None:
    receive(tmp_path / "trial", {name: b"bad", "good": b"good"})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["good"]
