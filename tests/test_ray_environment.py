"""What engine ray changes in the process of its user, and puts back."""

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from shell import hpo
from studies import X, run, spec

from hpo.engines._ray.environment import quiet
from hpo.errors import HpoError
from hpo.masking import masked


def of_this_process() -> tuple[object, ...]:
    signals = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    return signals, dict(os.environ), sys.excepthook, logging.getLogger("ray").handlers


def test_what_ray_takes_for_itself_is_put_back(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune")
    before = of_this_process()
    with quiet(tmp_path / "log"):
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does when it starts, and
        signal.signal(signal.SIGUSR1, lambda *_: None)  # Ray Tune when it runs
        os.environ["PYTHONBREAKPOINT"] = "ray.util.rpdb.set_trace"
        sys.excepthook = lambda *_: None
        logging.getLogger("ray.tune").warning("Failed to fetch metrics for %d trial(s)", 3)
        logging.getLogger("ray.tune").warning("something else")
    assert of_this_process() == before
    assert (tmp_path / "log").read_text().count("WARNING") == 1


def test_secret_variables_of_workers_are_told_to_nobody() -> None:
    variables = {"HF_TOKEN": "abc", "OMP_NUM_THREADS": "1", "API": "http://me:abc@host"}
    described = spec(ray={"runtime_env": {"env_vars": variables}}, space=X)
    assert described.secret
    assert "abc" not in str(described.shown())
    assert described.plain()["ray"]["runtime_env"]["env_vars"] == variables
    assert masked({"env_vars": {"OMP_NUM_THREADS": "1"}}) == {"env_vars": {"OMP_NUM_THREADS": "1"}}


def test_an_address_that_the_engine_has_no_use_for_is_refused() -> None:
    told = hpo("run", "--objective", "digits", "--ray-address", "head:6379", "--dry-run")
    assert told.code == 2
    assert "--ray-address head:6379: engine optuna runs trials on this machine" in told.err


def test_a_ray_client_is_refused_before_the_study_is_begun(
    quick: None, mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(HpoError, match="through a Ray client"):
        run(mlruns, engine="ray", workers=1, space=X)
    assert not (mlruns / "studies").exists()


@pytest.mark.parametrize("asked", [{"address": "head:6380"}, {"runtime_env": {"pip": ["a"]}}])
def test_a_cluster_that_is_joined_already_is_not_another(asked: dict[str, object]) -> None:
    cluster = pytest.importorskip("hpo.engines._ray.cluster")
    cluster.require_same(spec(ray={"address": "localhost:6379"}), "10.0.0.1:6379")
    cluster.require_same(spec(ray={"address": "auto"}), "10.0.0.1:6379")
    with pytest.raises(HpoError, match="already"):
        cluster.require_same(spec(ray=asked), "10.0.0.1:6379")
