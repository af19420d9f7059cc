"""Fixtures that several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: the models of tests are too small for threads to be worth waiting for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # studies of tests do not go to the developer's server

from studies import children


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    """An empty folder for studies."""
    return tmp_path / "mlruns"


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which an objective leaves marks for the test."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out of a launch what only costs time here: git, installed versions, a slow disk."""
    monkeypatch.setattr("hpo.launch.git_state", dict)
    monkeypatch.setattr("hpo.launch.versions", dict)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray on this machine for the tests of a file; engine ray uses what it finds running."""
    from rays import ray_running

    with ray_running(num_cpus=4):
        yield


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fails a test after which a process it started is still there, a zombie counting as well."""
    before = set(children())
    yield
    assert set(children()) <= before
