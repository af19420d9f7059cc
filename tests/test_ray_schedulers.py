"""Schedulers of Ray Tune as pruners: Ray decides, the ledger says what came of it."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from studies import X, events, outcomes, resume, run, spec, table

from hpo.errors import Interrupted
from hpo.launch import launch
from hpo.preparation import Launch, spec_from_keywords
from hpo.result import open_study

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.usefixtures("ray_here", "quick"),
]


def test_asha_ends_trials_at_its_rungs_and_the_others_come_to_their_end(mlruns: Path) -> None:
    result = run(
        mlruns,
        "level",
        trials=8,
        sampler="random",
        space=X,
        engine="ray",
        workers=1,
        prune={"asha": {"reduction_factor": 2}},
    )
    states = outcomes(result)
    assert {"complete", "pruned"} == set(states)
    best = 1.0
    for record in result.records:  # one after another: the one that leads is never ended
        steps = [e["step"] for e in events(result, "measurement") if e["trial"] == record.number]
        assert (record.state == "complete") == (len(steps) == 10)
        assert len(steps) in (1, 2, 4, 8, 10)
        if record.coordinates["x"] < best:
            best = record.coordinates["x"]
            assert record.state == "complete"


@pytest.mark.parametrize("brackets", [1, 3])
def test_asha_goes_on_after_an_interrupt_as_if_there_had_been_none(
    mlruns: Path, brackets: int
) -> None:
    described = {
        "trials": 10,
        "sampler": "random",
        "space": X,
        "engine": "ray",
        "workers": 1,
        "prune": {"asha": {"reduction_factor": 2, "brackets": brackets}},
    }
    whole = run(mlruns, "level", name="whole", **described)

    def interrupts(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and event["trial"] == 2 and event["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        launch(spec("level", **described), Launch(mlruns, sinks=(interrupts,)))
    assert len(open_study("s", mlruns).records) < 10
    assert table(resume(mlruns)) == table(whole)


def test_hyperband_lets_trials_wait_and_the_best_of_a_bracket_go_on(mlruns: Path) -> None:
    described = spec_from_keywords(
        name="s", objective="digits", space=["weight_decay"], sampler="random", trials=10, seed=1,
        steps=40, training={"evaluations": 4}, prune="ray_hyperband", engine="ray", workers=2,
        mlflow=False,
    )  # fmt: skip
    result = launch(described, Launch(mlruns))
    states = outcomes(result)
    assert states[:4] == ["complete"] * 4  # the first bracket has one rung, the last step
    assert sorted(states[4:]) == ["complete"] * 2 + ["pruned"] * 4
    at = {(e["trial"], e["step"]): e["metrics"]["val_loss"] for e in events(result, "measurement")}
    halved = {number: at[number, 20] for number in range(4, 10)}
    best = sorted(halved, key=lambda number: halved[number])[:2]
    assert {n for n in range(4, 10) if states[n] == "complete"} == set(best)
    for number in range(4, 10):
        steps = [step for trial, step in at if trial == number]
        assert steps == ([10, 20, 30, 40] if number in best else [10, 20])
