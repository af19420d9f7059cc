"""Every sampler file keeps Optuna's contract and ours; the files enrol themselves.

Run as a program with a journal, a sampler and a number of trials, it continues a study: that is how
the test of resuming gets a process that shares nothing with this one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState

from hpo import samplers
from hpo.samplers import Request
from hpo.samplers._suggest import suggest, to_param
from search_spaces import plugins
from search_spaces.domains import Choice, Domain, Float, Form, Int
from search_spaces.errors import HpoError
from search_spaces.space import TOGETHER, SearchSpace

NAMES = plugins.names("hpo.samplers")
# Between runs, samplers that tune within them are one and the same: one is enough in a hurry.
ALIKE = {
    name: pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
    if samplers.load(name).in_run and name != "stn"
}
TRIALS = 16

# From rich to plain: every sampler is tested on the first one that it does not refuse.
SPACES = (
    SearchSpace(
        {
            "weight_decay": Float(1e-6, 1e-1, "log"),
            "noise": Float(0, 1, "log+0"),
            "optimizer": Choice(("sgd", "adamw")),
            "momentum": Float(0.5, 0.999, "logit", when={"optimizer": ("sgd",)}),
            "layers": Int(1, 4),
        }
    ),
    SearchSpace(
        {
            "weight_decay": Float(1e-6, 1e-1, "log"),
            "noise": Float(0, 1, "log+0"),
            "optimizer": Choice(("sgd", "adamw")),
            "layers": Int(1, 4),
        }
    ),
    SearchSpace(
        {
            "weight_decay": Float(1e-6, 1e-1, "log"),
            "dropout": Float(0, 0.7, start=0.1),
            "noise": Float(0, 1, "log+0"),
            "layers": Int(1, 4),
        }
    ),
    SearchSpace({"optimizer": Choice(("sgd", "adamw", True, 1)), "layers": Int(1, 8)}),
)


@pytest.mark.slow
class TestOptunaSuites(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """The suites that Optuna ships for authors of samplers, with our default options."""

    @pytest.fixture(params=[ALIKE.get(name, name) for name in NAMES])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: samplers.optuna_sampler(request.param, seed=0)


@pytest.mark.slow
class TestOptunaSuitesWithModels(RelativeSamplerTestCase):
    """The same for samplers that start with random trials, with the model used at once."""

    @pytest.fixture(
        params=[
            name
            for name in NAMES
            if "startup_trials" in {f.name for f in dataclasses.fields(samplers.load(name).options)}
        ]
    )
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: _brief(samplers.optuna_sampler(request.param, seed=0, startup_trials=1))


@pytest.mark.parametrize("name", NAMES)
def test_points_are_in_range_and_repeat_with_the_seed(name: str) -> None:
    space = _space(name)
    points = _drive(_study(), name, range(TRIALS), seed=3)
    assert points == _drive(_study(), name, range(TRIALS), seed=3)
    assert points != _drive(_study(), name, range(TRIALS), seed=4)
    coordinates = space.coordinates()
    for point in points:
        assert set(point) == set(space.active(point))
        for key, value in point.items():
            assert coordinates[key].contains(value), (key, value)
            assert type(value) in (bool, int, float, str), (key, type(value))


@pytest.mark.slow
@pytest.mark.parametrize("first", [7, 14])
@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name: str, first: int, tmp_path: Path) -> None:
    """7 trials and 9 more by another study object are the 16 of one study; so are 14 and 2."""
    whole = _drive(_study(tmp_path / "whole"), name, range(TRIALS), seed=7)
    parts = _drive(_study(tmp_path / "parts"), name, range(first), seed=7)
    again = _study(tmp_path / "parts")
    assert len(again.trials) == first
    parts += _drive(again, name, range(first, TRIALS), seed=7)
    assert parts == whole


@pytest.mark.slow
def test_resumed_in_another_process(tmp_path: Path) -> None:
    """Nothing depends on what a process happens to hold, such as the order of its hashes."""
    expected = {}
    for name in NAMES:
        expected[name] = _drive(_study(tmp_path / f"{name}-whole"), name, range(TRIALS), seed=7)
        _drive(_study(tmp_path / name), name, range(7), seed=7)
    found = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path), *NAMES],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(found.stdout) == {name: expected[name][7:] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_parallel_trials_resume_as_well(name: str, tmp_path: Path) -> None:
    """Two trials were running when the driver died: they keep their points, the rest follows."""
    whole, parts = _study(tmp_path / "whole"), _study(tmp_path / "parts")
    for study in (whole, parts):
        _drive(study, name, range(5), seed=7)
    open_trials = [_ask(whole, name, number, 7) for number in (5, 6)]
    for number in (5, 6):
        _ask(parts, name, number, 7)
    expected = _ask(whole, name, 7, 7)[1]
    again = _study(tmp_path / "parts")
    assert [t.params for t in again.trials[5:]] == [t.params for t, _ in open_trials]
    assert _ask(again, name, 7, 7)[1] == expected


@pytest.mark.parametrize("name", NAMES)
def test_failed_pruned_and_enqueued_trials_do_not_disturb(name: str) -> None:
    study, space = _study(), _space(name)
    domains = space.coordinates()
    start = space.start_coordinates()
    study.enqueue_trial({key: to_param(domains[key], value) for key, value in start.items()})
    for number in range(TRIALS):
        trial, point = _ask(study, name, number, 1)
        if number == 0:
            active = {key: start[key] for key in space.active(start)}
            assert (
                point == pytest.approx(active) if name == "grid" else point.keys() == active.keys()
            )
        if number % 3 == 1:
            trial.report(_value(point), step=1)
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 3 == 2:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, _value(point))
    assert len(study.trials) == TRIALS


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_raised_or_warned_at_the_end(name: str) -> None:
    """Optuna's grid stops the study from within `tell`, which raises outside `optimize`."""
    space = SearchSpace({"a": Int(1, 2), "b": Int(1, 2)})
    sampler, request = samplers.load(name), _request(name, space)
    study = _study()
    for number in range(6):
        study.sampler = samplers.at_ask(sampler, study_seed=1, number=number, request=request)
        trial = study.ask()
        study.tell(trial, _value(suggest(trial, request.coordinates)))
        ended = samplers.exhausted(sampler, study, request)
        assert ended == (sampler.exhausted is not None and number >= 3)


@pytest.mark.parametrize("name", [n for n in NAMES if not samplers.load(n).in_run])
def test_many_coordinates_are_refused(name: str) -> None:
    sampler = samplers.load(name)
    knots = sampler.most // TOGETHER + 1
    l2 = Float(1e-6, 1, "log", size=TOGETHER, schedule=Form("steps", max(2, knots)))
    space = SearchSpace({"l2": l2, "a": Int(1, 2)})
    with pytest.raises(HpoError, match=f"at most {sampler.most} numbers.*l2 alone") as caught:
        samplers.check(sampler, name, _request(name, space))
    assert caught.value.path == ("sampler",) and caught.value.hint


def _brief(sampler: BaseSampler) -> BaseSampler:
    """Less search for the best expected improvement: the suite needs hundreds of them."""
    inner = getattr(sampler, "_inner", None)
    if hasattr(inner, "_n_local_search"):
        inner._n_local_search, inner._n_preliminary_samples = 2, 64
    return sampler


def _space(name: str) -> SearchSpace:
    sampler = samplers.load(name)
    for space in SPACES:
        try:
            samplers.check(sampler, name, _request(name, space))
        except HpoError:
            continue
        return space
    raise AssertionError(f"{name} refuses every space of this test")


def _request(name: str, space: Mapping[str, Domain]) -> Request:
    """A request with few random trials at the start, so that models are what is tested."""
    sampler = samplers.load(name)
    known = {field.name for field in dataclasses.fields(sampler.options)}
    options = {"startup_trials": 4} if "startup_trials" in known else {}
    coordinates = SearchSpace(space).coordinates()
    return Request(coordinates, samplers.parse_options(sampler, options, name), TRIALS)


def _study(path: Path | None = None) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path))) if path else None
    return optuna.create_study(storage=storage, study_name="test", load_if_exists=True)


def _drive(study: optuna.Study, name: str, numbers: range, seed: int) -> list[dict[str, Any]]:
    """Trials asked and told one by one, the sampler built anew for each."""
    points = []
    for number in numbers:
        trial, point = _ask(study, name, number, seed)
        study.tell(trial, _value(point))
        points.append(point)
    return points


def _ask(
    study: optuna.Study, name: str, number: int, seed: int
) -> tuple[optuna.Trial, dict[str, Any]]:
    request = _request(name, _space(name))
    study.sampler = samplers.at_ask(name, study_seed=seed, number=number, request=request)
    trial = study.ask()
    assert trial.number == number
    return trial, suggest(trial, request.coordinates)


def _value(point: Mapping[str, Any]) -> float:
    return sum((float(value) - 0.3) ** 2 for value in point.values() if not isinstance(value, str))


def _continue(folder: Path, names: list[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("error")
    found = {name: _drive(_study(folder / name), name, range(7, TRIALS), seed=7) for name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    _continue(Path(sys.argv[1]), sys.argv[2:])
