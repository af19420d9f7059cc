"""Faults that are not the objective's: they end the study or are mended, and no trial pays."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import studies

import hpo
from hpo.console import Console
from hpo.errors import HpoError
from hpo.folder import Folder
from hpo.launch import launch
from hpo.preparation import Launch


def test_an_error_of_a_listener_ends_the_study_and_fails_no_trial(mlruns: Path) -> None:
    def full_disk(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement":
            raise HpoError("no space left")

    with pytest.raises(HpoError, match="no space left"):
        launch(studies.spec(), Launch(mlruns, sinks=(full_disk,)))
    assert [r.state for r in hpo.open_study("s", mlruns).records] == ["running"]
    assert studies.resume(mlruns).ended == 4


def test_a_damaged_checkpoint_is_set_aside_and_the_trial_starts_anew(mlruns: Path) -> None:
    options: dict[str, Any] = {
        "objective": "digits",
        "space": {"dropout": None},
        "steps": 4,
        "trials": 1,
        "training": {"evaluations": 2},
    }
    folder = Folder(mlruns.absolute() / "studies" / "s")
    trial = folder.trial(0)
    trial.mkdir(parents=True)
    (trial / "seed-0.pt").write_bytes(b"not a checkpoint")
    result = hpo.run(name="s", mlflow=False, workers=0, mlruns=mlruns, quiet=True, **options)
    assert [r.state for r in result.records] == ["complete"]
    assert [a["reason"] for a in result.records[0].attempts] == ["checkpoint"]


def test_a_sampler_that_raises_is_named_and_leaves_no_half_made_trial(
    mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> float:
        raise ZeroDivisionError("in the sampler")

    with monkeypatch.context() as patched:
        patched.setattr(optuna.samplers.RandomSampler, "sample_independent", broken)
        with pytest.raises(HpoError, match="sampler random raised at trial 1: ZeroDivisionError"):
            studies.run(mlruns, sampler="random")
    closing = [json.loads(line) for line in _events(mlruns) if '"close"' in line]
    assert closing[-1]["status"] == "failed"
    assert [r.number for r in hpo.open_study("s", mlruns).records] == [0]
    assert studies.resume(mlruns).ended == 4


def test_what_an_objective_prints_in_this_process_stays_out_of_the_json(
    mlruns: Path, tmp_path: Path
) -> None:
    loud = tmp_path / "loud.py"
    loud.write_text("def f(h, seed):\n    print('hello')\n    return h(0)['x']\n")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        console = Console("json", "val_loss", "minimize")
        described = studies.spec(f"{loud}:f", space=studies.X)
        launch(described, Launch(mlruns, sinks=(console,)))
    assert all(json.loads(line)["format"] == 1 for line in out.getvalue().splitlines())
    assert "hello" in err.getvalue()


def test_a_finished_trial_is_never_pruned_at_its_last_measurement(mlruns: Path) -> None:
    result = studies.run(mlruns, "value", prune="median", trials=8, space=studies.X)
    assert studies.outcomes(result) == ["complete"] * 8


def test_the_hold_out_cannot_be_the_goal_of_a_task() -> None:
    with pytest.raises(HpoError, match="holdout_loss is kept") as caught:
        hpo.objective("digits", minimize="holdout_loss")
    assert caught.value.path == ("minimize",)


def test_an_objective_for_optuna_tells_the_value_at_the_step_the_study_would(mlruns: Path) -> None:
    options: dict[str, Any] = {
        "space": {"dropout": None},
        "steps": 60,
        "training": {"evaluations": 12},
        "objective_options": {"train_rows": 60},
    }
    run = hpo.run("digits", trials=1, workers=0, mlflow=False, mlruns=mlruns, quiet=True, **options)
    study = optuna.create_study()
    study.enqueue_trial({"dropout": 0.05})
    study.optimize(hpo.objective("digits", **options), n_trials=1)
    assert run.best is not None
    assert study.best_value == run.best.value


def _events(mlruns: Path) -> list[str]:
    return (mlruns / "studies" / "s" / "events.jsonl").read_text().splitlines()
