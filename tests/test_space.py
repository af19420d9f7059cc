"""Search spaces: coordinates, conditions, presets, and what a study file may say about them."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.domains import Choice, Float, Form, Int
from search_spaces.errors import HpoError
from search_spaces.space import TOGETHER, SearchSpace, holds

DEFAULTS = {
    "weight_decay": Float(1e-6, 1e-1, "log", start=1e-4, off=0),
    "dropout": Float(0, 0.7, start=0.05, off=0),
    "input_noise": Float(0, 1, start=0.05, off=0),
    "label_smoothing": Float(0, 0.4, start=0.05, off=0),
    "augment.rotate": Float(0, 45, start=5, off=0),
    "augment.hue": Float(0, 0.5, start=0.05, off=0),
}

SPACE = SearchSpace(
    {
        "momentum": Float(0, 0.99, start=0.9, when={"optimizer": ("sgd", "nesterov")}),
        "beta": Float(0.5, 0.99, when={"optimizer": ("adam",)}, off=0.0),
        "optimizer": Choice(("sgd", "nesterov", "adam")),
        "l2": Float(1e-6, 1, "log", size=2, start=(1e-3, 1e-4)),
        "dropout": Float(0, 0.7, start=0.1, schedule=Form("steps", 2)),
        "layers": Int(1, 4),
    }
)


def test_coordinates_are_scalar_and_parents_come_first() -> None:
    coordinates = SPACE.coordinates()
    assert list(coordinates) == [
        "optimizer", "l2[0]", "l2[1]", "dropout@0", "dropout@0.5", "layers", "momentum", "beta",
    ]  # fmt: skip
    assert coordinates["l2[1]"] == Float(1e-6, 1, "log", start=1e-4)
    assert coordinates["dropout@0.5"] == Float(0, 0.7, start=0.1)
    assert coordinates["momentum"].when == {"optimizer": ("sgd", "nesterov")}
    assert SPACE.start_coordinates()["l2[0]"] == 1e-3


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (None, ["x"]),
        (Form("constant"), ["x"]),
        (Form("steps", 3), ["x@0", "x@0.3333", "x@0.6667"]),
        (Form("linear", 3), ["x@0", "x@0.5", "x@1"]),
        (Form("cosine"), ["x@0", "x@1"]),
        (Form("cyclical", cycles=2), ["x@0", "x@0.25"]),
        (Form("ramp"), ["x@start", "x@end", "x@until"]),
        (Form("ramp", at=(0.3,)), ["x@0", "x@0.3"]),
        (Form("stages", 3), ["x@stage1", "x@stage2", "x@stage3", "x@until1", "x@until2"]),
        (Form("stages", at=(0.2, 0.6)), ["x@0", "x@0.2", "x@0.6"]),
    ],
)
def test_knots_become_coordinates(form: Form | None, names: list[str]) -> None:
    space = SearchSpace({"x": Float(0, 1, schedule=form)})
    assert list(space.coordinates()) == names
    assert space.schedule({}).at(0.7) == {"x": 0.5}


def test_a_vector_with_a_schedule_has_a_coordinate_for_each_strength_at_each_knot() -> None:
    space = SearchSpace({"x": Float(0, 1, size=2, schedule=Form("linear", 2))})
    assert list(space.coordinates()) == ["x[0]@0", "x[1]@0", "x[0]@1", "x[1]@1"]
    schedule = space.schedule({"x[0]@0": 0.0, "x[1]@0": 0.2, "x[0]@1": 1.0, "x[1]@1": 0.4})
    assert schedule.at(0.5)["x"] == pytest.approx((0.5, 0.3))


def test_as_many_knots_as_allowed_have_different_names() -> None:
    assert len(SearchSpace({"x": Float(0, 1, schedule=Form("cubic", 64))}).coordinates()) == 64


def test_conditions_switch_coordinates() -> None:
    assert "momentum" in SPACE.active({"optimizer": "sgd"})
    assert "beta" not in SPACE.active({"optimizer": "sgd"})
    assert {"momentum", "beta"}.isdisjoint(SPACE.active({}))
    assert holds(SPACE["beta"], {"optimizer": "adam"})


def test_an_inactive_knob_is_held_off_or_at_its_start() -> None:
    sgd = SPACE.schedule({"optimizer": "sgd", "momentum": 0.5, "beta": 0.7}).at(0)
    assert (sgd["momentum"], sgd["beta"]) == (0.5, 0.0)
    adam = SPACE.schedule({"optimizer": "adam", "beta": 0.7}).at(0)
    assert (adam["momentum"], adam["beta"]) == (0.9, 0.7)
    assert SPACE.start["beta"] == 0.0
    assert SPACE.start["l2"] == (1e-3, 1e-4)


def test_a_condition_on_an_inactive_knob_does_not_hold() -> None:
    space = SearchSpace(
        {
            "a": Choice((1, 2)),
            "b": Choice(("x", "y"), when={"a": (2,)}),
            "c": Float(0, 1, when={"b": ("x",)}, off=0),
        }
    )
    assert space.active({"a": 1, "b": "x", "c": 0.5}) == ("a",)
    assert space.active({"a": 2, "b": "x", "c": 0.5}) == ("a", "b", "c")
    assert space.schedule({"a": 1, "b": "x", "c": 0.5}).at(0)["c"] == 0.0


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.data())
def test_every_choice_of_coordinates_makes_a_schedule_inside_the_space(data: st.DataObject) -> None:
    values = {
        name: domain.from_unit(data.draw(st.floats(0, 1)))
        for name, domain in SPACE.coordinates().items()
    }
    point = SPACE.schedule(values).at(data.draw(st.floats(0, 1)))
    assert all(SPACE[name].contains(value) for name, value in point.items())


def test_it_is_a_mapping_a_value_and_can_be_pickled() -> None:
    assert len(SPACE) == 6
    assert "l2" in SPACE
    SPACE.coordinates()
    copy = pickle.loads(pickle.dumps(SPACE))
    assert copy == SPACE
    assert hash(copy) == hash(SPACE)
    assert SearchSpace.parse(SPACE.spec(), {}, free=True) == SPACE


def test_parse_takes_a_preset_a_list_or_a_mapping() -> None:
    assert list(SearchSpace.parse("regularization", DEFAULTS)) == [
        "weight_decay", "dropout", "input_noise", "label_smoothing",
    ]  # fmt: skip
    assert SearchSpace.parse("dropout", DEFAULTS) == SearchSpace({"dropout": DEFAULTS["dropout"]})
    curves = SearchSpace.parse("regularization_curves", DEFAULTS)
    assert "dropout@0.5" in curves.coordinates()
    listed = SearchSpace.parse(["dropout", "input_noise"], DEFAULTS)
    assert listed == SearchSpace.parse({"dropout": None, "input_noise": {}}, DEFAULTS)
    assert SearchSpace.parse({"x": {"low": 1, "high": 3}}, {}, free=True)["x"] == Float(1, 3)


GOLDEN = [
    (
        {"dropuot": {"low": 0, "high": 0.7}},
        ("dropuot",),
        "unknown knob 'dropuot', did you mean 'dropout'?\n"
        "known: augment.*, dropout, input_noise, label_smoothing, weight_decay"
        "   (hpo list regularizers)",
    ),
    ({"weight_decay": {"low": 0}}, ("weight_decay", "low"), "low 0 with scale log: the logarithm"),
    (
        "regularisation",
        (),
        "unknown space 'regularisation', did you mean 'regularization'?\nknown: augment, ",
    ),
    (7, (), "space 7 is neither a preset nor a mapping of knobs"),
    (["dropout", 3], (1,), "3 is not the name of a knob"),
    (
        {"dropout": {"when": {"inputnoise": 1}}, "input_noise": None},
        ("dropout", "when", "inputnoise"),
        "unknown knob 'inputnoise', did you mean 'input_noise'?\n"
        "when can name these knobs of the space: dropout, input_noise",
    ),
    (
        {"dropout": {"when": {"input_noise": 1}}, "input_noise": None},
        ("dropout", "when", "input_noise"),
        "when: dropout cannot depend on input_noise, which has real values\n"
        "a condition can name a choice, or a constant knob with whole numbers",
    ),
    (
        {"dropout": {"when": {"input_noise": 0.2}}, "input_noise": {"options": [0, 0.1]}},
        ("dropout", "when", "input_noise"),
        "unknown option '0.2', did you mean '0.1'?\noptions of input_noise: 0, 0.1",
    ),
    (
        {"dropout": {"when": {"input_noise": 9}}, "input_noise": {"scale": "int"}},
        ("dropout", "when", "input_noise"),
        "when: input_noise is never 9",
    ),
    (
        {
            "dropout": {"when": {"input_noise": 1}},
            "input_noise": {"scale": "int", "schedule": "linear"},
        },
        ("dropout", "when", "input_noise"),
        "when: dropout cannot depend on input_noise, which changes during training",
    ),
    (
        {
            "dropout": {"options": [0, 1], "when": {"input_noise": 1}},
            "input_noise": {"options": [0, 1], "when": {"dropout": 1}},
        },
        ("dropout", "when"),
        "the conditions of dropout, input_noise depend on each other in a circle",
    ),
    (
        {"dropout": {"options": [0, 1], "when": {"dropout": 1}}},
        ("dropout", "when"),
        "the conditions of dropout depend on each other in a circle",
    ),
]


@pytest.mark.parametrize(("data", "path", "text"), GOLDEN, ids=lambda v: str(v)[:40])
def test_a_bad_space_is_explained(data: object, path: tuple[str | int, ...], text: str) -> None:
    with pytest.raises(HpoError) as caught:
        SearchSpace.parse(data, DEFAULTS)
    assert str(caught.value).startswith(text)
    assert caught.value.path == path


@pytest.mark.parametrize("given", [None, {}, {"scale": "log"}])
def test_a_knob_of_ones_own_needs_a_range(given: object) -> None:
    with pytest.raises(HpoError, match="did you mean 'dropout'") as caught:
        SearchSpace.parse({"dropuot": given}, DEFAULTS, free=True)
    assert caught.value.hint == "a knob of your own needs a range: dropuot: {low: 0, high: 1}"


@pytest.mark.parametrize("name", ["x@0", "x[1]", "a b", "", "9a", "\u00e4", "x" * 101])
def test_names_that_coordinates_or_mlflow_could_not_carry_are_refused(name: str) -> None:
    with pytest.raises(HpoError, match="cannot be the name of a knob"):
        SearchSpace.parse({name: {"low": 0, "high": 1}}, {}, free=True)


def test_unknown_and_impossible_coordinates_are_refused() -> None:
    with pytest.raises(HpoError, match="unknown coordinate 'dropout', did you mean 'dropout@0"):
        SPACE.schedule({"dropout": 0.1})
    with pytest.raises(HpoError, match=r"value 0.9 is not possible"):
        SPACE.schedule({"dropout@0": 0.9})


def test_a_long_vector_is_one_coordinate_between_runs() -> None:
    size = TOGETHER + 1
    even, uneven = Float(1e-3, 1, "log", start=0.1, size=size), tuple(k / size for k in range(size))
    space = SearchSpace(
        {
            "even": even,
            "curve": Float(0, 1, start=0.5, size=size, schedule=Form("linear", 2)),
            "uneven": Float(0, 1, start=uneven, size=size),
        }
    )
    assert list(space.coordinates()) == ["even", "curve@0", "curve@1"]
    schedule = space.schedule({"even": 0.2, "curve@1": 0.7})
    assert schedule.at(0.0)["even"] == (0.2,) * size
    assert schedule.at(1.0)["curve"] == pytest.approx((0.7,) * size)
    assert schedule.at(0.5)["uneven"] == uneven
    assert space.start["even"] == (0.1,) * size
