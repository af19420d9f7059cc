"""Pruners by name: options, errors with their place, and what they do to curves of training."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from hpo import pruners
from search_spaces.errors import HpoError

STEPS = range(300, 3001, 300)
SPECS: dict[str, Any] = {
    "median": "median",
    "percentile": "percentile",
    "successive_halving": "successive_halving",
    "hyperband": "hyperband",
    "patient": {"patient": {"patience": 3, "then": "median"}},
    "threshold": {"threshold": {"upper": 3.0}},
    "wilcoxon": "wilcoxon",
}
OF_RAY = {"asha": False, "ray_hyperband": True}  # whether it lets trials wait


def test_every_pruner_of_optuna_has_a_name() -> None:
    known = {name for name in optuna.pruners.__all__ if name != "BasePruner"}
    names = set(pruners.names()) - OF_RAY.keys()
    ours = {f"{name.title().replace('_', '')}Pruner" for name in names}
    assert ours - {"NonePruner"} == known - {"NopPruner"}
    assert set(SPECS) == names - {"none"}


def test_those_of_ray_decide_nothing_on_the_side_of_the_study() -> None:
    for name, pauses in OF_RAY.items():
        assert pruners.of_ray(name) is not None and pruners.pauses(name) == pauses
        assert isinstance(pruners.build(name), optuna.pruners.NopPruner)


def test_asha_counts_in_the_steps_of_the_study() -> None:
    asha = pruners.of_ray({"asha": {"reduction_factor": 3}})
    assert asha is not None
    settings = asha.scheduler(pruners.Steps(150, 3000))[1]
    assert (settings["grace_period"], settings["max_t"]) == (150, 3000)
    assert settings["reduction_factor"] == 3 and not settings["stop_last_trials"]
    assert asha.scheduler(pruners.Steps())[1]["max_t"] > 10**9  # a function does not tell its last


@pytest.mark.parametrize("spec", ["none", None, "median", {"median": {}}, {"median": None}])
def test_forms_of_a_spec(spec: Any) -> None:
    assert isinstance(pruners.build(spec), optuna.pruners.BasePruner)


@pytest.mark.parametrize("name", SPECS)
def test_hopeless_trials_end_early_and_the_best_one_does_not(name: str) -> None:
    study = optuna.create_study(pruner=pruners.build(SPECS[name], STEPS[0], STEPS[-1]))
    levels = [0.5, 0.6, 0.55, 0.65, 0.4] + [5.0] * 8
    ended = [_train(study, level) for level in levels]
    assert ended[4] == STEPS[-1]
    assert min(ended[5:]) < STEPS[-1]


@pytest.mark.parametrize("name", SPECS)
def test_values_that_are_not_numbers_neither_raise_nor_warn(name: str) -> None:
    study = optuna.create_study(pruner=pruners.build(SPECS[name], STEPS[0], STEPS[-1]))
    for level in (0.5, 0.6, math.nan, math.inf, 0.4, math.nan):
        _train(study, level)
    study.tell(study.ask(), 0.1)  # a best trial without a single report
    _train(study, 0.7)


@pytest.mark.parametrize("name", SPECS)
def test_the_last_step_may_be_unknown(name: str) -> None:
    study = optuna.create_study(pruner=pruners.build(SPECS[name]))
    for level in (0.5, 0.6, 0.55, 0.65, 0.4, 5.0):
        _train(study, level, range(1, 8))


def test_defaults_fit_training_steps() -> None:
    median: Any = pruners.build("median", 150, 3000)
    assert (median._n_startup_trials, median._n_warmup_steps) == (4, 600)
    hyperband: Any = pruners.build("hyperband", 300, 3000)
    study = optuna.create_study(pruner=hyperband)
    _train(study, 0.5)
    assert hyperband._n_brackets == 3  # first rungs at 300, 900 and 2700
    halving: Any = pruners.build("successive_halving", 150, 3000)
    assert halving._min_resource == 150


def test_options_reach_optuna() -> None:
    median: Any = pruners.build({"median": {"startup_trials": 5, "warmup_steps": 3}}, 100, 3000)
    assert (median._n_startup_trials, median._n_warmup_steps) == (5, 3)
    hyperband: Any = pruners.build({"hyperband": {"min_resource": 5, "max_resource": 50}})
    assert (hyperband._min_resource, hyperband._max_resource) == (5, 50)


def test_a_first_rung_beyond_the_end_prunes_nothing() -> None:
    spec = {"hyperband": {"min_resource": 5000}}
    study = optuna.create_study(pruner=pruners.build(spec, 150, 3000))
    assert [_train(study, level) for level in (0.5, 5.0, 9.0)] == [3000] * 3


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ("medain", (), "unknown pruner 'medain', did you mean 'median'?"),
        ({"medain": {}}, ("medain",), "unknown pruner 'medain', did you mean 'median'?"),
        ({"median": {"startup": 5}}, ("median", "startup"), "did you mean 'startup_trials'?"),
        ({"median": {"startup_trials": -1}}, ("median", "startup_trials"), "at least 0"),
        ({"median": {"startup_trials": "5"}}, ("median", "startup_trials"), "a whole number"),
        ({"median": 5}, (), "one pruner is due"),
        ({"median": {}, "patient": {}}, (), "one pruner is due"),
        (3, (), "one pruner is due"),
        (True, (), "one pruner is due"),
        ({"asha": {"grace_period": 9, "max_t": 3}}, ("asha", "grace_period"), "9 is above max_t 3"),
        ({"patient": {"then": "asha"}}, ("patient", "then"), "decides by itself"),
        ("threshold", (), "neither lower nor upper is given"),
        ({"threshold": {"lower": 3, "upper": 1}}, ("threshold", "lower"), "lower 3 is above"),
        ({"hyperband": {"min_resource": 9, "max_resource": 3}}, ("hyperband", "min_resource"), "9"),
        ({"hyperband": {"reduction_factor": 1}}, ("hyperband", "reduction_factor"), "at least 2"),
        ({"percentile": {"percentile": 101}}, ("percentile", "percentile"), "at most 100"),
        ({"patient": {"then": "medain"}}, ("patient", "then"), "did you mean 'median'?"),
        (
            {"patient": {"then": {"median": {"interval": 3}}}},
            ("patient", "then", "median", "interval"),
            "unknown option 'interval'",
        ),
    ],
)
def test_errors_say_where_and_what(spec: Any, path: tuple[str, ...], message: str) -> None:
    with pytest.raises(HpoError) as caught:
        pruners.build(spec, 150, 3000)
    assert message in str(caught.value)
    assert caught.value.path == ("prune", *path) and caught.value.hint


def _train(study: optuna.Study, level: float, steps: range = STEPS) -> int:
    """A curve that falls to `level`, or rises if that is high; the step at which it ended."""
    trial = study.ask()
    slope = 1.0 if level > 1 else -0.3
    for step in steps:
        trial.report(level + slope * (step / steps[-1] - 1) + 1e-3 * (step % 7), step)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return step
    if math.isfinite(level):
        study.tell(trial, level)
    else:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return steps[-1]
