"""Drivers on a cluster: killed, interrupted, or left by the cluster they drive."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from clusters import Nodes, below, cluster_running
from rays import QUIET
from shell import start
from studies import alive, outcomes, resume, run, table, until

from hpo.result import open_study

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("quick")]

OBJECTIVES = Path(__file__).with_name("toy_objectives.py")
STUDY = f"""name: s
objective: {OBJECTIVES}:timed
objective_options: {{seconds: 0.1}}
space:
  x: {{low: 0, high: 1}}
sampler: random
workers: 1
retries: 2
mlflow: false
budget: {{trials: 4}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with cluster_running() as nodes:
        nodes.add(cpus=2)
        yield nodes


@contextmanager
def driver(folder: Path, *arguments: str, text: str = STUDY) -> Iterator[subprocess.Popen[str]]:
    """A driver of the study, as a process in a session of its own."""
    if "--resume" not in arguments:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.yaml").write_text(text)
        arguments = ("study.yaml", *arguments)
    environment = {**os.environ, **QUIET}
    process = start("run", *arguments, cwd=folder, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def said(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """What a driver says until it ends."""
    return process.communicate(timeout=seconds)[1]


def measured(folder: Path, count: int = 1) -> None:
    """Waits until the study has so many measurements."""
    spool = folder / "mlruns" / "studies" / "s" / "events.jsonl"
    until(lambda: spool.exists() and spool.read_text().count('"measurement"') >= count, 60)


def actors(folder: Path) -> list[int]:
    """The processes of workers that serve a study of the folder."""
    logs = (folder / "mlruns" / "studies" / "s").glob("worker-*.log")
    return [pid for log in logs if alive(pid := int(log.stem.partition("-")[2]))]


def test_a_study_whose_driver_was_killed_goes_on_with_the_other_engine(
    tmp_path: Path, cluster: Nodes
) -> None:
    whole = run(
        tmp_path / "whole", "timed", space={"x": {"low": 0.0, "high": 1.0}}, sampler="random"
    )
    ray = ("--engine", "ray", "--ray-address", cluster.address)
    for name, first, second in (
        ("a", ray, ("--engine", "optuna")),
        ("b", ("--engine", "optuna"), ray),
    ):
        folder = tmp_path / name
        with driver(folder, *first) as killed:
            measured(folder, 7)
            killed.kill()
            killed.wait()
        until(lambda folder=folder: not actors(folder), 20)
        assert (
            len([r for r in open_study("s", folder / "mlruns").records if r.state == "complete"])
            < 4
        )
        with driver(folder, "--resume", *second) as again:
            err = said(again, 90)
        assert again.returncode == 0, err
        result = open_study("s", folder / "mlruns")
        assert table(result) == table(whole)


def test_an_interrupt_of_the_whole_terminal_saves_and_leaves_no_process(tmp_path: Path) -> None:
    with driver(tmp_path, "--engine", "ray") as process:
        measured(tmp_path, 2)
        started = below(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        err = said(process, 120)
    assert process.returncode == 130, err
    assert "saved." in err and "Traceback" not in err
    until(lambda: not any(map(alive, started)), 10)
    records = open_study("s", tmp_path / "mlruns").records
    assert records and all(record.state == "complete" for record in records)
    assert outcomes(resume(tmp_path / "mlruns", engine="optuna")) == ["complete"] * 4


def test_a_second_interrupt_drops_what_runs_at_once(tmp_path: Path) -> None:
    text = STUDY.replace("seconds: 0.1", "seconds: 2")
    with driver(tmp_path, "--engine", "ray", text=text) as process:
        measured(tmp_path, 1)
        started = below(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        until(lambda: "stopping" in spool(tmp_path), 10)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        err = said(process, 120)
    assert process.returncode == 130, err
    assert time.monotonic() - begun < 20
    until(lambda: not any(map(alive, started)), 10)
    assert [r.state for r in open_study("s", tmp_path / "mlruns").records] == ["running"]


def test_a_study_hears_that_there_are_no_nodes_and_goes_on_when_there_are(
    tmp_path: Path, cluster: Nodes
) -> None:
    """Its only node goes, its trial waits, another node comes."""
    with driver(tmp_path, "--engine", "ray", "--ray-address", cluster.address) as process:
        measured(tmp_path, 2)
        cluster.have(0)
        until(lambda: '"waiting"' in spool(tmp_path), 40)
        cluster.add(cpus=2)
        err = said(process, 90)
    assert process.returncode == 0, err
    assert err.count("no room for 1 trial, waiting for nodes") == 1
    assert outcomes(open_study("s", tmp_path / "mlruns")) == ["complete"] * 4


def test_workers_that_cannot_be_started_end_the_study_with_the_reason(
    tmp_path: Path, cluster: Nodes
) -> None:
    text = STUDY + "ray: {runtime_env: {conda: no-such-environment}}\n"
    with driver(
        tmp_path, "--engine", "ray", "--ray-address", cluster.address, text=text
    ) as process:
        err = said(process, 120)
    assert process.returncode == 5, err
    assert "ray: no worker can be started: " in err and "Traceback" not in err
    assert [r.state for r in open_study("s", tmp_path / "mlruns").records] == ["running"]


def test_a_cluster_that_goes_away_ends_the_study_with_a_sentence_and_it_continues(
    tmp_path: Path,
) -> None:
    with cluster_running() as nodes:
        nodes.add(cpus=1)
        with driver(tmp_path, "--engine", "ray", "--ray-address", nodes.address) as process:
            measured(tmp_path, 2)
            nodes.behead()
            err = said(process, 120)
    assert process.returncode == 5, err
    assert "the head of the cluster at" in err and "is gone\nnothing is lost" in err
    assert "Traceback" not in err
    assert outcomes(resume(tmp_path / "mlruns", engine="optuna", ray={})) == ["complete"] * 4


def spool(folder: Path) -> str:
    return (folder / "mlruns" / "studies" / "s" / "events.jsonl").read_text()
