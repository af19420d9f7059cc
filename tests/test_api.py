"""The Python interface keeps what its docstrings say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy_objectives
from studies import OBJECTIVES, X, outcomes

import hpo
from hpo.api import reference
from hpo.errors import Conflict, Interrupted, NothingSucceeded

pytestmark = pytest.mark.usefixtures("quick")


def run(mlruns: Path, objective: Any = toy_objectives.curve, **keywords: Any) -> hpo.Result:
    defaults = {"name": "s", "trials": 4, "workers": 0, "mlflow": False, "quiet": True}
    return hpo.run(objective, mlruns=mlruns, **{**defaults, **keywords})


# -- hpo.run --------------------------------------------------------------------------------------


def test_run_gives_best_schedule_and_table(mlruns: Path) -> None:
    result = run(mlruns, trials=6)
    assert result.best is not None
    assert result.best.value == min(r.value for r in result.records if r.value is not None)
    assert set(result.schedule.at(0.5)) == {"x", "y", "layers"}
    frame = result.trials
    assert list(frame["number"]) == list(range(6))
    assert {"state", "val_loss", "step", "start.x", "seconds", "attempts"} <= set(frame.columns)
    assert frame.loc[result.best.number, "val_loss"] == result.best.value


def test_an_objective_is_given_as_a_function_or_by_reference(mlruns: Path) -> None:
    given = [toy_objectives.curve, "toy_objectives:curve", f"{OBJECTIVES}:curve"]
    values = [
        [r.value for r in run(mlruns, objective, name=f"s{i}").records]
        for i, objective in enumerate(given)
    ]
    assert values[0] == values[1] == values[2]


def test_a_function_runs_in_workers_too(mlruns: Path) -> None:
    assert outcomes(run(mlruns, workers=1, trials=2)) == ["complete"] * 2


def test_progress_goes_to_stderr_and_quiet_is_quiet(
    mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(mlruns, name="loud", quiet=False)
    loud = capsys.readouterr()
    assert not loud.out and "trial 3   done" in loud.err
    run(mlruns, name="quiet")
    quiet = capsys.readouterr()
    assert not quiet.out and not quiet.err


def test_keys_of_a_study_file_are_keywords_and_a_misspelt_one_is_an_error(mlruns: Path) -> None:
    result = run(mlruns, sampler="random", seed=3, maximize="accuracy", space=X)
    assert (result.spec.sampler, result.spec.seed, result.spec.metric) == ("random", 3, "accuracy")
    with pytest.raises(hpo.HpoError, match="unknown key 'sampler_opts'"):
        run(mlruns, name="t", sampler_opts={})
    with pytest.raises(hpo.HpoError, match="unknown sampler 'tpee', did you mean 'tpe'"):
        run(mlruns, name="t", sampler="tpee")
    assert not (mlruns / "studies" / "t").exists()


def test_a_taken_name_raises_and_resume_continues(mlruns: Path) -> None:
    run(mlruns, trials=2)
    with pytest.raises(Conflict):
        run(mlruns, trials=3)
    assert len(run(mlruns, trials=3, resume=True).records) == 3


def test_a_study_without_success_raises(mlruns: Path) -> None:
    with pytest.raises(NothingSucceeded):
        run(mlruns, toy_objectives.raises, space=X)


def test_an_interrupt_raises_interrupted_and_resume_continues(mlruns: Path, marks: Path) -> None:
    options = {"folder": str(marks)}
    (marks / "go").touch()
    with pytest.raises(Interrupted):
        run(mlruns, interrupting, space=X, objective_options=options)
    result = run(mlruns, interrupting, space=X, objective_options=options, resume=True)
    assert outcomes(result) == ["complete"] * 4


def interrupting(h: Any, seed: int, folder: str) -> float:
    """The user presses Ctrl-C in the third trial."""
    if len(list(Path(folder).glob("begun-*"))) == 2:
        toy_objectives.mark(folder, "begun")
        raise KeyboardInterrupt
    toy_objectives.mark(folder, "begun")
    return float(h()["x"])


# -- open_study -----------------------------------------------------------------------------------


def test_a_study_is_opened_by_name_by_folder_or_as_the_latest(mlruns: Path) -> None:
    first = run(mlruns, name="first")
    latest = run(mlruns, name="latest")
    assert hpo.open_study("first", mlruns).best == first.best
    assert hpo.open_study(str(first.folder.path)).best == first.best
    assert hpo.open_study(mlruns=mlruns).best == latest.best
    with pytest.raises(hpo.HpoError, match="no study 'frist', did you mean 'first'"):
        hpo.open_study("frist", mlruns)


def test_a_study_that_another_process_runs_can_be_opened(mlruns: Path) -> None:
    from studies import opened

    study = opened(mlruns)
    study.ask()
    result = hpo.open_study("s", mlruns)
    assert outcomes(result) == ["running"]
    assert result.best is None
    with pytest.raises(hpo.HpoError, match="no completed trial yet"):
        _ = result.schedule
    study.close()


# -- inside a user's own Optuna script ------------------------------------------------------------


def test_an_objective_for_a_plain_optuna_study() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(hpo.objective(toy_objectives.curve, space=X), n_trials=5)
    for trial in study.trials:
        assert set(trial.params) == {"x"}
        assert list(trial.intermediate_values) == [1, 2, 3, 4, 5]
        assert trial.value == min(trial.intermediate_values.values())


def test_its_measurements_reach_the_studys_pruner_and_close_the_objective(marks: Path) -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    study = optuna.create_study(pruner=pruner)
    options = {"folder": str(marks)}
    objective = hpo.objective("toy_objectives:rising", space=X, objective_options=options)
    study.optimize(objective, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert len(list(marks.glob("finally-*"))) == 3


def test_it_can_leave_reporting_to_the_script_and_maximize() -> None:
    study = optuna.create_study(direction="maximize")
    objective = hpo.objective(toy_objectives.curve, space=X, maximize="accuracy", report=False)
    study.optimize(objective, n_trials=2)
    assert not study.trials[0].intermediate_values
    assert study.best_value > 0


def test_what_is_not_finite_fails_the_trial_of_the_script(marks: Path) -> None:
    study = optuna.create_study()
    options = {"folder": str(marks)}
    objective = hpo.objective(toy_objectives.never_finite, space=X, objective_options=options)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state.name == "FAIL"


def test_every_sampler_is_an_optuna_sampler_by_name() -> None:
    sampler = hpo.optuna_sampler("tpe", seed=1, startup_trials=2)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=4)
    assert len(study.trials) == 4


# -- references -----------------------------------------------------------------------------------


def test_a_reference_names_module_and_function() -> None:
    assert reference("digits") == "digits"
    assert reference(toy_objectives.curve) == "toy_objectives:curve"


def test_what_no_other_process_can_find_is_refused() -> None:
    def inner(h: Any, seed: int) -> float:
        return 1.0

    for objective in (lambda h, seed: 1.0, inner, Callable()):
        with pytest.raises(hpo.HpoError, match="cannot be found by name") as caught:
            hpo.run(objective)
        assert caught.value.path == ("objective",)


class Callable:
    def __call__(self, h: Any, seed: int) -> float:
        return 1.0


def script(
    folder: Path, text: str, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, *(arguments or ("script.py",))],
        cwd=folder, capture_output=True, text=True, check=False, input=stdin, timeout=60,
    )  # fmt: skip


GUARDED = """
import hpo

def objective(h, seed):
    return (h()["x"] - 0.3) ** 2

if __name__ == "__main__":
    space = {"x": {"low": 0.0, "high": 1.0}}
    result = hpo.run(objective, space=space, trials=3, workers=1, mlflow=False, quiet=True)
    print(len(result.records), result.best.value <= 0.04)
"""


def test_a_script_runs_a_study_of_its_own_function(tmp_path: Path) -> None:
    ended = script(tmp_path, GUARDED)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("3 True\n", "", 0)


def test_a_module_run_with_m_runs_a_study_of_its_own_function(tmp_path: Path) -> None:
    ended = script(tmp_path, GUARDED, "-m", "script")
    assert (ended.stdout, ended.stderr) == ("3 True\n", "")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_script_without_the_guard_is_told_so_instead_of_starting_itself_again(
    tmp_path: Path, workers: int
) -> None:
    unguarded = GUARDED.replace('if __name__ == "__main__":', "if True:")
    ended = script(tmp_path, unguarded.replace("workers=1", f"workers={workers}"))
    assert ended.returncode == 1
    assert "its file calls hpo.run when it is imported" in ended.stderr
    assert 'put the call under  if __name__ == "__main__":' in ended.stderr
    assert not (tmp_path / "mlruns").exists()


def test_a_function_typed_at_a_prompt_is_refused_with_what_to_do(tmp_path: Path) -> None:
    typed = "import hpo\ndef f(h, seed): return 1.0\n\nhpo.run(f)\n"
    ended = script(tmp_path, "", "-", stdin=typed)
    assert "objective f lives in an interactive session" in ended.stderr
    assert "my_task.py:f" in ended.stderr
