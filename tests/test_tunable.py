"""What is said of samplers and knobs is what happens: they move, or they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toy_kinds

from hpo import samplers, tunable
from hpo.samplers import Start
from hpo.spec import StudySpec
from objectives.training.loop import train
from objectives.training.options import Training
from search_spaces import HpoError, catalogue
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.regularizer import Regularizer

FOLLOWED = Training(
    steps=40, optimizer="sgd", learning_rate=0.1, learning_rate_schedule="constant", evaluations=1
)


def moved(sampler: str, name: str, knob: str, kind: str) -> bool:
    """Whether a sampler moves this knob alone, in a short run from the middle of its range."""
    record, way = catalogue.load(name), samplers.load(sampler)
    options = samplers.parse_options(way, {}, sampler)
    point = {**toy_kinds.on(record), **toy_kinds.LIVELY.get(name, {})}
    assert way.tune is not None
    tuner = way.tune(Start({knob: record.knobs[knob]}, {name: record}, point), options)
    task = toy_kinds.KINDS[kind]()
    *_, last = train(task, {name: record}, tuner, FOLLOWED, 0)
    return bool(last.point[knob] != point[knob])


@pytest.fixture(autouse=True)
def doubles() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def strengths() -> list[tuple[str, str]]:
    return [
        (name, knob)
        for name in catalogue.names()
        for knob, domain in catalogue.load(name).knobs.items()
        if domain.off is not None
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["stn", "hypergrad"])
@pytest.mark.parametrize(("name", "knob"), strengths(), ids=[knob for _, knob in strengths()])
def test_a_knob_moves_where_the_list_says_so(sampler: str, name: str, knob: str) -> None:
    record = catalogue.load(name)
    kinds = toy_kinds.kinds_of(name)
    if not tunable.why_not(samplers.load(sampler), record, record.knobs[knob], knob):
        assert any(moved(sampler, name, knob, kind) for kind in kinds)
    elif sampler == "stn" and record.once:
        with pytest.raises(HpoError):
            moved(sampler, name, knob, kinds[0])


def record(knob: Domain, **said: Any) -> Regularizer:
    said = said or {"penalty": lambda parameters, h: h["knob"]}
    return Regularizer(knobs={"knob": knob}, **said)


def answer(domain: Domain, **said: Any) -> dict[str, str]:
    given = tunable.answers(record(domain, **said), "knob")
    return {kind: tunable.word(answers) for kind, answers in given.items()}


def test_the_kinds_of_samplers_and_what_each_can_tune() -> None:
    everyone = dict.fromkeys(tunable.GROUPS, "yes")
    smooth = {"penalty": lambda parameters, h: h["knob"], "differentiable": True}
    assert answer(Float(0, 1), **smooth) == everyone
    assert answer(Float(0, 1)) == {**everyone, "hypergradients": "no"}
    assert answer(Int(0, 5), **smooth) == {**everyone, "populations": "pbt", "hypergradients": "no"}
    assert answer(Choice(("a", "b"))) == {**everyone, "populations": "pbt", "hypergradients": "no"}
    assert answer(Float(0, 1), **smooth, once=True) == {**everyone, "stn": "no"}
    elsewhere = {**everyone, "stn": "no", "hypergradients": "no"}
    assert answer(Float(0, 1), **smooth, evaluated=True) == elsewhere
    assert answer(Float(0, 1), **smooth, slow=("knob",)) == elsewhere
    by_step = answer(Float(0, 1), optimizer=lambda parameters, h, rate: None)
    assert by_step == {**everyone, "hypergradients": "amigo, hypergrad, soba"}
    reasons = tunable.answers(record(Float(0, 1)), "knob")["hypergradients"]
    assert {told.why_not for told in reasons} == {"has no derivative"}


def test_every_sampler_has_its_place() -> None:
    groups = {name: tunable.group(name, samplers.load(name)) for name in samplers.names()}
    assert {name for name, kind in groups.items() if kind is None} == {"hoag", "maid", "saba"}
    for name in ("hoag", "maid", "saba"):
        alone = tunable.why_not(samplers.load(name), record(Float(0, 1)), Float(0, 1))
        assert alone == tunable.BILEVEL
    assert [name for name, kind in groups.items() if kind == "populations"] == ["pb2", "pbt"]
    assert [name for name, kind in groups.items() if kind == "stn"] == ["stn"]


@pytest.mark.parametrize(
    ("sampler", "space", "said"),
    [
        ("hypergrad", {"randaugment.operations": None}, "randaugment.operations is a whole number"),
        ("hypergrad", {"dropout": None}, "dropout has no derivative"),
        ("f2sa", {"weight_decay": None}, "weight_decay has no derivative"),
    ],
)
def test_a_refusal_says_what_the_list_says(sampler: str, space: Any, said: str) -> None:
    from hpo import tuning
    from hpo.problem import load

    spec = StudySpec.model_validate(
        {
            "name": "one", "objective": "digits", "space": space, "sampler": sampler,
            "budget": {"trials": 1, "steps": 10},
        }
    )  # fmt: skip
    with pytest.raises(HpoError, match="can tune none of") as error:
        tuning.check(load(spec))
    assert said in error.value.hint
    (knob,) = space
    owner = catalogue.load(knob.partition(".")[0])
    given = tunable.answers(owner, knob)["hypergradients"]
    assert f"{knob} {dict(given)[sampler]}" == said
