"""`hpo.trainable`: a training as a Trainable of Ray Tune, in a script of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest

import hpo
from hpo.preparation import spec_from_keywords
from hpo.problem import load
from hpo.trial import follow
from search_spaces.errors import HpoError
from search_spaces.schedule import Schedule

SPEC: dict[str, Any] = {
    "objective": "digits",
    "space": ["weight_decay", "input_noise"],
    "steps": 40,
    "training": {"evaluations": 4},
    "seed": 2,
}


def test_a_result_is_a_measurement_under_the_knobs_of_the_config() -> None:
    problem = load(spec_from_keywords(**SPEC))
    expected = follow(problem, problem.schedule({"weight_decay": 0.01}), 2)
    training = hpo.trainable(**SPEC)({"weight_decay": 0.01})
    for measurement in expected:
        result = training.train()
        assert measurement.metrics.items() <= result.items()
        assert (result["step"], result["done"]) == (measurement.step, measurement.step == 40)
    training.stop()


def test_a_checkpoint_goes_on_under_other_knobs_and_says_its_schedule(tmp_path: Path) -> None:
    kind = hpo.trainable(spec_from_keywords(**SPEC))
    donor = kind({"weight_decay": 0.05})
    for _ in range(2):
        donor.train()
    donor.save(str(tmp_path / "first"))
    heir = kind({"input_noise": 0.7})
    heir.train()
    heir.restore(str(tmp_path / "first"))
    results = [heir.train(), heir.train()]
    heir.save(str(tmp_path / "last"))
    for one in (donor, heir):
        one.stop()
    found = json.loads((tmp_path / "last" / "lineage.json").read_text())["schedule"]
    schedule = Schedule.from_json(found)
    assert schedule.at(0.49)["weight_decay"] == 0.05 and schedule.at(0.5)["input_noise"] == 0.7
    anew = list(follow(load(spec_from_keywords(**SPEC)), schedule, 2))
    assert [r["val_loss"] for r in results] == [m.metrics["val_loss"] for m in anew[2:]]


def test_a_function_has_no_checkpoint(tmp_path: Path) -> None:
    training = hpo.trainable("toy_objectives:curve", space={"x": {"low": 0, "high": 1}})({"x": 0.5})
    assert [training.train()["step"] for _ in range(5)] == [1, 2, 3, 4, 5]
    with pytest.raises(HpoError, match="has no checkpoint to save"):
        training.save(str(tmp_path))
    training.stop()


def test_mistakes_are_told_before_ray_is_asked_for_anything() -> None:
    with pytest.raises(HpoError, match="did you mean 'digits'"):
        hpo.trainable("digts")
    kind = hpo.trainable(**SPEC)
    with pytest.raises(HpoError, match="did you mean 'weight_decay'"):
        kind({"wieght_decay": 0.1})


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_rays_own_tuner_tunes_it(tmp_path: Path) -> None:
    from ray import tune

    results = tune.Tuner(
        hpo.trainable(**SPEC),
        param_space={"weight_decay": tune.grid_search([1e-4, 1e-1])},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min"),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors and len(results) == 2
    problem = load(spec_from_keywords(**SPEC))
    for result in results:
        schedule = problem.schedule(result.config)
        (*_, last) = follow(problem, schedule, 2)
        assert result.metrics["val_loss"] == last.metrics["val_loss"]
