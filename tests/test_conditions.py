"""Knobs that depend on others that are not searched; the objective that init writes."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest

from hpo import problem
from hpo.spec import StudySpec
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces import HpoError, Schedule, SearchSpace, catalogue, presets

PART = "autoaugment.1a_magnitude"


def loaded(space: Any, **fixed: Any) -> problem.Problem:
    return problem.load(
        StudySpec.model_validate({"objective": "digits", "space": space, "fixed": fixed})
    )


@pytest.mark.parametrize("fixed", [{}, {"autoaugment.policy": "searched"}])
def test_a_condition_that_holds_throughout_is_none(fixed: dict[str, Any]) -> None:
    for space in (["autoaugment", PART], {"autoaugment": None, PART: {"high": 5}}):
        found = loaded(space, **fixed).space
        assert found[PART].when == {} and {*found} == {"autoaugment", PART}


def test_a_condition_that_never_holds_is_refused() -> None:
    with pytest.raises(HpoError, match=r"acts only where autoaugment\.policy is searched.*svhn"):
        loaded(["autoaugment", PART], **{"autoaugment.policy": "svhn"})


def test_a_condition_on_a_searched_knob_stays() -> None:
    found = loaded(["autoaugment", "autoaugment.policy", PART]).space
    assert found[PART].when == {"autoaugment.policy": ("searched",)}


@pytest.mark.parametrize("name", ["augment_images", "autoaugment", "curriculum", "randaugment"])
def test_what_init_writes_can_be_trained_with_spaces_for_images(name: str) -> None:
    text = resources.files("hpo").joinpath("templates/task.py.txt").read_text()
    scope: dict[str, Any] = {"__name__": "objective"}
    exec(text, scope)
    space = SearchSpace.parse(name, catalogue.knobs())
    assert {*space} == {*presets.load(name)}
    used = {n: r for n, r in catalogue.records().items() if {*r.knobs} & {*space}}
    schedule = Schedule.constant(
        SearchSpace({k: d for r in used.values() for k, d in r.knobs.items()}), {}
    )
    run = train(scope["Digits"](), used, Follow(schedule), Training(steps=2, evaluations=1), 0)
    assert next(run).metrics["val_loss"] < 10
