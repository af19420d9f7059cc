"""Every engine file keeps the contract of engines; the files enrol themselves."""

import os
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from studies import PACKED, X, events, outcomes, resume, rounded, run, spec, table

from hpo import engines
from hpo.errors import HpoError, Interrupted, NothingSucceeded
from hpo.launch import launch
from hpo.preparation import Launch
from hpo.result import open_study

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]

# Starting a worker of a cluster takes seconds: one number of them has to do.
WAYS = [
    pytest.param((name, workers), marks=marks, id=f"{name}-{workers}")
    for name in engines.names()
    for workers, marks in (
        [(2, (pytest.mark.cluster, pytest.mark.slow))]
        if engines.load(name).elsewhere
        else [(0, ()), (1, ()), (2, ())]
    )
]


# Workers that train start slowly: in each torch is imported.
TOGETHER = pytest.mark.parametrize(
    "together",
    [
        pytest.param(way, marks=[pytest.mark.slow] if way[1] else [], id=f"{way[0]}-{way[1]}")
        if not engines.load(way[0]).elsewhere
        else pytest.param(way, marks=[pytest.mark.slow, pytest.mark.cluster], id=f"{way[0]}-2")
        for way in [("optuna", 0), *((name, 2) for name in engines.names())]
    ],
)


@dataclass(frozen=True)
class Way:
    """An engine and a number of workers; 0 are trials in this process, if the engine can."""

    engine: str
    workers: int

    @property
    def spec(self) -> dict[str, Any]:
        return {"engine": self.engine, "workers": self.workers}


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """No process is left behind, but for those of a cluster that other tests use as well."""
    if "ray" not in request.node.name:
        request.getfixturevalue("no_process_left")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    _needs(request.param[0], request)
    return Way(*request.param)


def _needs(engine: str, request: pytest.FixtureRequest) -> None:
    """What has to run for an engine."""
    if engines.load(engine).elsewhere:
        request.getfixturevalue("ray_here")


def test_the_table_is_that_of_trials_run_one_after_another_here(mlruns: Path, way: Way) -> None:
    here = run(mlruns, name="here", trials=6, sampler="random", seeds=2)
    there = run(mlruns, name="there", trials=6, sampler="random", seeds=2, **way.spec)
    assert table(there) == table(here)


def test_every_trial_is_told_once_with_all_its_measurements_in_order(
    mlruns: Path, way: Way
) -> None:
    result = run(mlruns, trials=5, **way.spec)
    assert outcomes(result) == ["complete"] * 5
    assert Counter(e["trial"] for e in events(result, "start")) == Counter(range(5))
    assert Counter(e["trial"] for e in events(result, "end")) == Counter(range(5))
    for number in range(5):
        steps = [e["step"] for e in events(result, "measurement") if e["trial"] == number]
        assert steps == [1, 2, 3, 4, 5]


def test_pruning_a_trial_closes_its_generator(mlruns: Path, marks: Path, way: Way) -> None:
    result = run(
        mlruns,
        "rising",
        objective_options={"folder": str(marks)},
        space=X,
        prune={"threshold": {"upper": 1.05}},
        **way.spec,
    )
    assert "pruned" in outcomes(result)
    assert len(list(marks.glob("finally-*"))) == 4
    for record in result.records:
        steps = [e["step"] for e in events(result, "measurement") if e["trial"] == record.number]
        assert (record.state == "pruned") == (len(steps) < 10)


def test_a_trial_that_raises_is_an_outcome(mlruns: Path, way: Way) -> None:
    result = run(
        mlruns, "raises_above", trials=6, sampler="random", space=X,
        objective_options={"limit": 0.5}, seed=3, **way.spec,
    )  # fmt: skip
    failed = [r for r in result.records if r.state == "failed"]
    assert failed and len(failed) < 6
    assert all(r.coordinates["x"] > 0.5 and r.reason == "error" for r in failed)
    assert all("ValueError: too large  (toy_objectives.py:" in r.message for r in failed)


def test_an_objective_that_calls_exit_is_an_outcome(mlruns: Path, way: Way) -> None:
    with pytest.raises(NothingSucceeded, match=r"the objective called sys.exit\(3\)"):
        run(mlruns, "exits", trials=3, space=X, **way.spec)
    assert outcomes(open_study("s", mlruns)) == ["failed"] * 3


def test_an_objective_that_forks_is_measured_once(mlruns: Path, way: Way) -> None:
    result = run(mlruns, "forks", trials=2, space=X, **way.spec)
    assert [r.value for r in result.records] == [1.0, 1.0]
    assert len(events(result, "measurement")) == 4
    result = run(mlruns, "forks_and_raises", name="t", trials=1, space=X, **way.spec)
    assert outcomes(result) == ["complete"]


def test_one_that_goes_on_yielding_when_it_is_pruned_is_pruned(
    mlruns: Path, marks: Path, way: Way
) -> None:
    result = run(
        mlruns,
        "ignores_close",
        objective_options={"folder": str(marks)},
        space=X,
        trials=3,
        prune={"threshold": {"upper": 2.05}},
        **way.spec,
    )
    ignored = len(list(marks.glob("ignored-*")))
    assert ignored and outcomes(result).count("pruned") == ignored


def test_an_interrupt_leaves_a_study_that_continues_to_the_same_table(
    mlruns: Path, way: Way
) -> None:
    whole = run(mlruns, name="whole", trials=6, sampler="random")
    described = spec("curve", name="s", trials=6, sampler="random", **way.spec)

    def interrupts(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and event["trial"] == 2 and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        launch(described, Launch(mlruns, sinks=(interrupts,)))
    assert f"of 6 trials are done.  continue:  hpo run --resume --name {'s'}" in str(caught.value)
    stopped = open_study("s", mlruns)
    assert len(stopped.records) < 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert table(resume(mlruns)) == table(whole)


@pytest.mark.parametrize("when", ["finish", "now"])
def test_a_stop_request_ends_the_study_and_it_continues(mlruns: Path, way: Way, when: str) -> None:
    described = spec("curve", name="s", trials=100, objective_options={"steps": 200}, **way.spec)

    def asks(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and event["trial"] == 1 and event["step"] == 2:
            (mlruns / "studies" / "s" / "stop").write_text(when)

    result = launch(described, Launch(mlruns, sinks=(asks,)))
    assert 1 <= len(result.records) < 100
    if when == "finish":
        assert set(outcomes(result)) == {"complete"}
    count = len(result.records)
    assert outcomes(resume(mlruns, trials=count)) == ["complete"] * count


def test_a_listener_that_fails_ends_the_study_with_its_error_and_no_process_left(
    mlruns: Path, way: Way
) -> None:
    def fails(event: Mapping[str, Any]) -> None:
        if event["event"] == "end":
            raise HpoError("the listener failed")

    described = spec("curve", name="s", trials=6, **way.spec)
    with pytest.raises(HpoError, match="the listener failed"):
        launch(described, Launch(mlruns, sinks=(fails,)))
    assert outcomes(resume(mlruns, trials=3)) == ["complete"] * 3


def packed(**keywords: Any) -> dict[str, Any]:
    """A study whose trials can go together, of which some are pruned."""
    described = {
        "objective": f"{PACKED}:Small",
        "space": {"learning_rate": {"low": 1e-3, "high": 0.5, "scale": "log"}},
        "sampler": "random",
        "prune": {"threshold": {"upper": 1.1, "warmup_steps": 5}},
        "trials": 8,
    }
    return {**described, **keywords}


@TOGETHER
def test_trials_that_go_together_make_the_table_of_those_that_do_not(
    mlruns: Path, together: tuple[str, int], request: pytest.FixtureRequest
) -> None:
    _needs(together[0], request)
    way = Way(*together).spec
    here = run(mlruns, **packed(name="here"))
    there = run(mlruns, **packed(name="there", pack=3, **way))
    assert {"complete", "pruned"} == set(outcomes(here))
    assert rounded(there) == rounded(here)
    for kind in ("start", "end"):
        assert Counter(e["trial"] for e in events(there, kind)) == Counter(range(8))
    for record in there.records:
        steps = [e["step"] for e in events(there, "measurement") if e["trial"] == record.number]
        assert steps == [3, 6, 9, 12][: len(steps)]
        assert (record.state == "pruned") == (len(steps) < 4)


@TOGETHER
def test_an_interrupt_of_trials_that_go_together_leaves_them_to_be_continued(
    mlruns: Path, together: tuple[str, int], request: pytest.FixtureRequest
) -> None:
    _needs(together[0], request)
    whole = run(mlruns, **packed(name="whole"))
    described = spec(**packed(name="s", pack=3, **Way(*together).spec))

    def interrupts(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and event["trial"] == 4 and event["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        launch(described, Launch(mlruns, sinks=(interrupts,)))
    assert len(open_study("s", mlruns).records) <= 8
    assert rounded(resume(mlruns)) == rounded(whole)


def test_an_unknown_engine_is_named_with_the_known_ones(mlruns: Path) -> None:
    with pytest.raises(HpoError, match="unknown engine 'optunna', did you mean 'optuna'"):
        run(mlruns, engine="optunna")
