"""Which GPU and how many threads a worker sees, decided before torch is imported there."""

from pathlib import Path
from typing import Any

import pytest
from studies import run, spec

from hpo.engines import Slots
from hpo.engines._devices import cores, environments, even_share, visible_gpus
from hpo.errors import Unavailable, exit_code
from hpo.preparation import Launch, prepare, slots, slots_text

pytestmark = pytest.mark.usefixtures("quick")

CUDA = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA, "0,1")


def seen(workers: int, share: float) -> list[str]:
    return [environment[CUDA] for environment in environments(Slots(workers, share))]


@pytest.mark.usefixtures("two_gpus")
def test_half_a_gpu_puts_two_workers_on_each() -> None:
    assert seen(4, 0.5) == ["0", "0", "1", "1"]
    assert seen(3, 0.5) == ["0", "0", "1"]


@pytest.mark.usefixtures("two_gpus")
def test_whole_gpus_go_to_one_worker_each() -> None:
    assert seen(2, 1) == ["0", "1"]
    assert seen(1, 2) == ["0,1"]


def test_fractions_that_do_not_divide_a_gpu_leave_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA, "GPU-aa, GPU-bb")
    assert seen(6, 1 / 3) == ["GPU-aa"] * 3 + ["GPU-bb"] * 3
    assert seen(2, 0.7) == ["GPU-aa", "GPU-bb"]


@pytest.mark.usefixtures("two_gpus")
def test_a_worker_without_a_gpu_sees_none() -> None:
    assert seen(2, 0) == ["", ""]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("workers", "share", "hint"),
    [
        (1, 1.5, "use 0.5, 1, 2"),
        (3, 1, "at most --workers 2"),
        (5, 0.5, "at most --workers 4"),
        (1, 4, "leave --gpus-per-trial out"),
    ],
)
def test_more_gpus_than_there_are_are_refused_before_anything_runs(
    mlruns: Path, workers: int, share: float, hint: str
) -> None:
    with pytest.raises(Unavailable, match=hint) as caught:
        prepare(spec(workers=workers, gpus_per_trial=share), Launch(mlruns))
    assert exit_code(caught.value) == 5
    assert not mlruns.exists()


def test_no_gpu_at_all_is_said(mlruns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA, "")
    with pytest.raises(Unavailable, match="more than the 0 GPUs here"):
        prepare(spec(workers=1, gpus_per_trial=0.5), Launch(mlruns))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gpus_per_trial": 0.5}, (4, 0.5)),
        ({"gpus_per_trial": 2.0}, (1, 2.0)),
        ({"gpus_per_trial": 0.6}, (2, 0.6)),
        ({"gpus_per_trial": 0.3}, (6, 0.3)),
        ({"workers": 2}, (2, 1.0)),
        ({"workers": 5}, (5, 1 / 3)),
        ({"gpus_per_trial": 0.0}, (1, 0.0)),
        ({}, (1, 1.0)),
    ],
)
def test_what_is_not_said_is_as_much_as_there_is_and_can_be_had(
    given: dict[str, Any], expected: tuple[int, float]
) -> None:
    described = spec(**{"workers": None, **given})
    wanted = slots(described)
    assert (wanted.workers, wanted.gpus_per_trial) == expected
    assert len(environments(wanted)) == expected[0]


def test_an_even_share_always_fits() -> None:
    for gpus in range(1, 9):
        for workers in range(1, 40):
            share = even_share(gpus, workers)
            per_gpu = int(1 / share + 1e-9)
            assert per_gpu * gpus >= workers


def test_listed_but_disabled_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA, "-1")
    assert visible_gpus() == []


def test_gpus_are_counted_by_their_driver_where_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CUDA, raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho 'GPU 1: B (UUID: GPU-b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("hpo.engines._devices.cores", lambda: 8)
    assert [e["OMP_NUM_THREADS"] for e in environments(Slots(3))] == ["2"] * 3
    assert environments(Slots(20))[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environments(Slots(3))[0]["OMP_NUM_THREADS"] == "5"


@pytest.mark.usefixtures("two_gpus")
def test_workers_see_what_was_decided_before_torch_is_there(
    mlruns: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    result = run(
        mlruns, "environment", trials=4, workers=4, gpus_per_trial=0.5,
        space={"x": {"low": 0.0, "high": 1.0}}, fixed={"workers": 4},
        objective_options={"folder": str(marks)},
    )  # fmt: skip
    threads = str(max(1, cores() // 4))
    found = sorted(tuple(file.read_text().split("\n")) for file in marks.glob("environment-*"))
    assert found == [(gpu, threads, threads, "False") for gpu in ("0", "0", "1", "1")]
    assert {r.worker.rpartition(" ")[2] for r in result.records} == {"cuda:0", "cuda:1"}


def test_the_header_says_what_runs_where() -> None:
    assert slots_text(spec(workers=1, gpus_per_trial=0)) == "1 worker on cpu"
    assert slots_text(spec(workers=4, gpus_per_trial=0.5)) == "4 workers with 0.5 GPU each"
    assert slots_text(spec(workers=0)) == "in this process"
