"""Spreads of a schedule: kept, checked, thinned, and turned into means that drawing confirms."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpo import schedulefile
from search_spaces.domains import Choice, Domain, Float, Form, Int, Value, units
from search_spaces.errors import HpoError
from search_spaces.schedule import Schedule, Track
from search_spaces.space import SearchSpace

FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
DROPOUT = Float(0.0, 0.7, off=0.0)
KINDS: dict[str, Domain] = {
    "plain": Float(-1, 3),
    "dropout": DROPOUT,
    "decay": Float(1e-5, 1e-1, "log", off=0),
    "rate": Float(0.01, 0.9, "logit"),
    "noise": Float(0, 1, "log+0"),
    "depth": Int(1, 6),
    "width": Int(1, 300, "log", off=0),
}
SPACE = SearchSpace(
    {**KINDS, "layers": Float(0, 1, size=2), "mode": Choice(("a", "b"))},
)
START: dict[str, Value] = {
    **{"plain": 0.5, "dropout": 0.1, "decay": 1e-3, "rate": 0.2, "noise": 0.1, "depth": 2},
    **{"width": 20, "layers": (0.2, 0.5), "mode": "a"},
}


def example() -> Schedule:
    """A recording of every kind of knob, some perturbed, over three rows."""
    end: dict[str, Value] = {**START, "dropout": 0.5, "decay": 1e-2, "mode": "b"}
    return Schedule.recorded(
        SPACE,
        [
            (0.0, START, {"dropout": 1.0, "layers": (0.5, 0.0), "depth": 1.0}),
            (0.5, {**START, "dropout": 0.3}, {"dropout": 2.0, "layers": (0.5, 0.4)}),
            (1.0, end, {"dropout": 0.5, "layers": (0.1, 0.4), "plain": 0.0}),
        ],
    )


def held(domain: Domain, value: Value, sigma: Any) -> Schedule:
    """One knob x held at a value with a constant spread."""
    schedule = Schedule.constant(SearchSpace({"x": domain}), {"x": value})
    return replace(schedule, spreads={"x": Track("constant", (0.0,), (sigma,))})


def drawn(domain: Domain, value: float, sigma: float, normal: NDArray[Any]) -> NDArray[Any]:
    """Perturbed values, written out from the definition; whole numbers are not rounded."""
    assert not isinstance(domain, Choice)
    low, high, scale = domain.low, domain.high, domain.scale
    if isinstance(domain, Int):
        low, high = low - 0.5, high + 0.5
    if scale == "log+0":
        low, scale = (low or high * 1e-6), "log"
    ways: dict[str, tuple[Any, Any]] = {
        "linear": (lambda v: v, lambda v: v),
        "log": (np.log, np.exp),
        "logit": (lambda v: np.log(v / (1 - v)), lambda v: 1 / (1 + np.exp(-v))),
    }
    forward, back = ways[scale]
    unit = (forward(value) - forward(low)) / (forward(high) - forward(low))
    unit = min(max(unit, 1e-3), 1 - 1e-3)
    free = math.log(unit / (1 - unit)) + sigma * normal
    there = forward(low) + (forward(high) - forward(low)) / (1 + np.exp(-free))
    return np.clip(back(there), domain.low, domain.high)  # type: ignore[no-any-return]


# -- what is recorded ---------------------------------------------------------------------------


def test_recorded_spreads_run_straight_between_their_rows() -> None:
    schedule = example()
    assert list(schedule.spreads) == ["dropout", "depth", "layers"], "plain has none but zero"
    assert schedule.spread_at(0.25) == {"dropout": 1.5, "depth": 1.0, "layers": (0.5, 0.2)}
    assert schedule.spread_at(0.75)["layers"] == pytest.approx((0.3, 0.4))
    assert schedule.spread_at(-1) == schedule.spread_at(0)
    assert schedule.spread_at(9) == {"dropout": 0.5, "depth": 1.0, "layers": (0.1, 0.4)}
    assert schedule.at(0.25)["dropout"] == pytest.approx(0.2)


def test_without_spreads_nothing_is_new() -> None:
    schedule = Schedule.recorded(SPACE, [(0.0, START), (1.0, {**START, "plain": 1.0})])
    assert schedule.spreads == {} and schedule.spread_at(0.3) == {} and schedule.band(0.3) == {}
    assert schedule.expected() == schedule
    document = schedule.to_json()
    assert document["format"] == 1 and "spreads" not in document
    zero = replace(schedule, spreads={"plain": Track("linear", (0.0, 1.0), (0, 0.0))})
    assert zero == schedule


def test_a_single_number_is_the_spread_of_every_strength() -> None:
    assert held(Float(0, 1, size=3), (0.1, 0.2, 0.3), 1).spread_at(0) == {"x": (1.0, 1.0, 1.0)}


def test_spreads_are_compared_copied_and_pickled() -> None:
    schedule = example()
    assert schedule != replace(schedule, spreads={})
    assert pickle.loads(pickle.dumps(schedule)) == schedule == copy.deepcopy(schedule)


# -- files --------------------------------------------------------------------------------------


def test_json_keeps_spreads_exactly(tmp_path: Path) -> None:
    schedule = example()
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json(), allow_nan=False)))
    assert again == schedule and again.spreads == schedule.spreads
    assert again.to_json() == schedule.to_json()
    schedulefile.write(schedule, tmp_path / "s.json")
    assert schedulefile.read(tmp_path / "s.json").spreads == schedule.spreads


def test_a_file_with_spreads_is_of_a_format_that_older_readers_refuse() -> None:
    document = example().to_json()
    assert document["format"] == 2
    with pytest.raises(HpoError, match="unknown key 'spreads'"):
        Schedule.from_json({**document, "format": 1})
    bare = {key: value for key, value in document.items() if key != "spreads"}
    assert Schedule.from_json(bare) == replace(example(), spreads={})


CONSTANT = {"form": "constant", "progress": [0.0], "values": [1.0]}


def spreads(**changes: Any) -> dict[str, Any]:
    return {"dropout": {**CONSTANT, **changes}}


BAD: list[tuple[object, str, tuple[str | int, ...]]] = [
    (3, "spreads 3 is not a mapping", ("spreads",)),
    (None, "spreads null is not a mapping", ("spreads",)),
    ({"dropuot": CONSTANT}, "unknown knob 'dropuot', did you mean 'dropout'", ("spreads",)),
    ({"mode": CONSTANT}, "a choice has no spread", ("spreads", "mode")),
    ({"dropout": []}, "track [] is not a mapping", ("spreads", "dropout")),
    (spreads(sigma=1), "unknown key 'sigma'", ("spreads", "dropout")),
    (spreads(form="cosine"), "form 'cosine': a spread changes in straight lines", ("spreads",)),
    (spreads(form="steps"), "form 'steps': a spread", ("spreads", "dropout", "form")),
    (spreads(form=None), "form null is not text", ("spreads", "dropout")),
    (spreads(values=[math.nan]), "spread is nan", ("spreads", "dropout")),
    (spreads(values=[math.inf]), "spread is inf", ("spreads", "dropout")),
    (spreads(values=[-1e-9]), "spread -1e-09 lies outside 0..1000", ("spreads", "dropout")),
    (spreads(values=[1001]), "spread 1001 lies outside 0..1000", ("spreads", "dropout")),
    (spreads(values=[10**400]), "spread is too large", ("spreads", "dropout")),
    (spreads(values=["1"]), "spread '1' is text", ("spreads", "dropout")),
    (spreads(values=[True]), "spread true is a boolean", ("spreads", "dropout")),
    (spreads(values=[None]), "spread null is empty", ("spreads", "dropout")),
    (spreads(values=[[1.0]]), "spread (1.0,) is a list", ("spreads", "dropout")),
    (spreads(values=[{}]), "spread {} is a mapping", ("spreads", "dropout")),
    (spreads(values=[]), "1 knots but 0 values", ("spreads", "dropout")),
    (spreads(progress=[]), "form constant needs at least 1", ("spreads", "dropout")),
    (spreads(progress=[2.0]), "progress lies outside 0..1", ("spreads", "dropout")),
    (spreads(options={"power": 2.0}), "options of form constant: none", ("spreads", "dropout")),
    (
        spreads(form="linear", progress=[0.5, 0.5], values=[1.0, 2.0]),
        "progress does not rise",
        ("spreads", "dropout", "progress"),
    ),
    (
        {"layers": {**CONSTANT, "values": [[1.0, 2.0, 3.0]]}},
        "spread (1.0, 2.0, 3.0) has 3 numbers, this knob has 2",
        ("spreads", "layers"),
    ),
    ({"layers": {**CONSTANT, "values": [[1.0, -2.0]]}}, "spread -2 lies", ("spreads", "layers")),
    ({"layers": {**CONSTANT, "values": [[1.0, [2.0]]]}}, "spread [2.0] is a list", ("spreads",)),
]


@pytest.mark.parametrize(("data", "text", "path"), BAD, ids=lambda v: str(v)[:50])
def test_bad_spreads_are_refused_with_a_sentence(
    data: object, text: str, path: tuple[str, ...]
) -> None:
    with pytest.raises(HpoError) as caught:
        Schedule.from_json({**example().to_json(), "spreads": data})
    assert str(caught.value).startswith(text)
    assert caught.value.path[: len(path)] == path


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@FIXED
@given(st.sampled_from(["", "form", "progress", "values", "options", "more"]), JUNK)
def test_any_spread_gives_a_schedule_or_an_error(key: str, junk: object) -> None:
    data = {"dropout": {**CONSTANT, key: junk} if key else junk}
    try:
        schedule = Schedule.from_json({**example().to_json(), "spreads": data})
    except HpoError as error:
        assert str(error)
    else:
        sigma = schedule.spread_at(0.4).get("dropout", 0.0)
        assert isinstance(sigma, float) and 0 <= sigma <= 1000
        assert schedule.space["dropout"].contains(schedule.expected().at(0.4)["dropout"])


@pytest.mark.parametrize("row", [{"nothing": 1.0}, {"mode": 1.0}, {"dropout": -1.0}])
def test_wrong_spreads_cannot_be_recorded(row: dict[str, float]) -> None:
    with pytest.raises(HpoError) as caught:
        Schedule.recorded(SPACE, [(0.0, START, row)])
    assert caught.value.path[0] == "spreads"


# -- what else a schedule can do ----------------------------------------------------------------


def test_only_values_count_as_moving_and_apart() -> None:
    schedule = Schedule.constant(SPACE, START)
    shrinking = replace(schedule, spreads={"plain": Track("linear", (0.0, 1.0), (2.0, 0.1))})
    assert not shrinking.moving(0.0)
    assert shrinking.distance(schedule) == 0
    assert shrinking.knots() == [0.0] and shrinking.table(2) == schedule.table(2)
    assert shrinking.expected().moving(0.5)
    assert shrinking.expected().distance(schedule) > 0


def test_thinning_keeps_spreads_on_the_same_knots() -> None:
    rows = [(i / 40, {"x": min(i, 10) / 10.0}, {"x": 2.0 - abs(i - 20) / 20}) for i in range(41)]
    schedule = Schedule.recorded(SearchSpace({"x": Float(0, 10)}), rows)
    thinned, bound = schedule.thin(8)
    assert thinned.knots() == [0.0, 0.25, 1.0] and bound < 1e-9
    assert thinned.spreads["x"] == Track("linear", (0.0, 0.25, 1.0), (1.0, 1.5, 1.0))


def test_thinning_keeps_the_ends_of_a_spread_where_values_stand_still() -> None:
    shrinking = Track("linear", (0.0, 0.3, 1.0), (2.0, 1.0, 0.5))
    schedule = replace(Schedule.constant(SPACE, START), spreads={"plain": shrinking})
    thinned, bound = schedule.thin(8)
    assert thinned.spreads["plain"] == Track("linear", (0.0, 1.0), (2.0, 0.5))
    assert (bound, thinned.tracks) == (0.0, schedule.tracks)
    assert schedule.thin(1)[0].spread_at(0.7) == {"plain": 2.0}
    still = replace(schedule, spreads={"plain": Track("constant", (0.0,), (1.0,))})
    assert still.thin(8) == (still, 0.0)


def test_a_pinned_knob_has_no_spread() -> None:
    pinned = example().pin({"dropout": DROPOUT}, {"dropout": 0.2, "more": "text"})
    assert list(pinned.spreads) == ["depth", "layers"]
    assert Schedule.from_json(pinned.to_json()) == pinned


# -- means --------------------------------------------------------------------------------------


@FIXED
@given(
    st.sampled_from(sorted(KINDS)), st.floats(0.02, 0.98), st.floats(0.05, 3.0), st.integers(0, 99)
)
def test_the_expected_value_is_the_mean_of_draws(
    name: str, place: float, sigma: float, seed: int
) -> None:
    domain = KINDS[name]
    value = domain.from_unit(max(place, 0.12) if name == "noise" else place)
    assert isinstance(value, int | float)
    normal = np.random.default_rng(seed).standard_normal(20_000)
    draws = drawn(domain, value, sigma, np.concatenate([normal, -normal]))
    pairs = (draws[:20_000] + draws[20_000:]) / 2
    slack = 5 * float(pairs.std()) / math.sqrt(len(pairs)) + 1e-3 * (domain.high - domain.low)  # type: ignore[union-attr]
    expected = held(domain, value, sigma).expected().at(0.3)["x"]
    assert isinstance(expected, int | float) and domain.contains(expected)
    assert abs(expected - draws.mean()) <= slack + (0.5 if isinstance(domain, Int) else 0)


@pytest.mark.parametrize(("sigma", "least"), [(0.5, 1e-9), (1.0, 1e-5), (2.0, 1e-3), (4.0, 1e-2)])
def test_the_quadrature_is_as_exact_as_it_says(sigma: float, least: float) -> None:
    fine = np.linspace(-10, 10, 40_001)
    weights = np.exp(-(fine**2) / 2)
    for domain in (Float(0, 1), Float(1e-5, 1, "log"), Float(0.01, 0.99, "logit")):
        for place in (0.0, 0.1, 0.5, 0.8, 1.0):
            value = domain.from_unit(place)
            exact = (weights * drawn(domain, value, sigma, fine)).sum() / weights.sum()
            found = held(domain, value, sigma).expected().at(0)["x"]
            assert found == pytest.approx(exact, abs=least)


def test_a_symmetric_perturbation_in_the_middle_changes_no_mean() -> None:
    assert held(Float(0, 2), 1.0, 2.0).expected().at(0)["x"] == pytest.approx(1.0, abs=1e-12)
    assert held(Int(1, 5), 3, 2.0).expected().at(0)["x"] == 3


REST: list[tuple[Domain, Value, float]] = [
    (DROPOUT, 0.0, 2.0),
    (Float(1e-5, 1e-1, "log", off=0), 0.0, 2.0),
    (Float(0, 1, "log+0"), 0.0, 2.0),
    (Float(0, 1, "log+0"), 0, 2.0),
    (Int(1, 300, "log", off=0), 0, 2.0),
    (Int(0, 5, off=0), 0, 1.0),
    (Float(0, 1), 1e-5, 0.0),
    (Float(2, 2), 2.0, 3.0),
]


@pytest.mark.parametrize(("domain", "value", "sigma"), REST, ids=str)
def test_what_is_off_or_has_no_spread_stays(domain: Domain, value: Value, sigma: float) -> None:
    schedule = held(domain, value, sigma)
    assert schedule.expected().at(0.5) == {"x": value}
    for ends in schedule.band(0.5).values():
        assert ends == pytest.approx((value, value), abs=1e-12)


def test_an_end_that_is_not_off_counts_as_a_thousandth_inside() -> None:
    for domain in (Float(0, 1), Float(-1, 1, off=0)):
        low = held(domain, domain.low, 1.0).expected().at(0)["x"]
        same = held(domain, domain.low + 1e-3 * (domain.high - domain.low), 1.0)
        assert low == pytest.approx(same.expected().at(0)["x"], abs=1e-12)
        assert domain.low < low < domain.low + 0.005  # type: ignore[operator]
    inside = held(Float(-1, 1, off=0.5), 0.5, 1.0)
    assert inside.expected().at(0)["x"] != 0.5, "off within the range is a value like others"


def test_only_the_strengths_with_a_spread_change() -> None:
    schedule = held(Float(0, 1, off=0, size=3), (0.1, 0.1, 0.0), (0.0, 2.0, 2.0))
    first, second, third = schedule.expected().at(0)["x"]  # type: ignore[misc, str-unpack]
    assert (first, third) == (0.1, 0.0)
    assert second == held(Float(0, 1), 0.1, 2.0).expected().at(0)["x"] > 0.15  # type: ignore[operator]


def test_the_mean_is_taken_at_the_knots_of_values_and_spreads() -> None:
    schedule = example()
    expected = schedule.expected()
    assert expected.spreads == {}
    assert {name for name in SPACE if expected.tracks[name] != schedule.tracks[name]} <= {
        *schedule.spreads
    }
    assert {0.0, 0.5, 1.0} < {*expected.tracks["dropout"].progress}
    for place, value, sigma in ((0.0, 0.1, 1.0), (0.5, 0.3, 2.0), (1.0, 0.5, 0.5)):
        there = held(DROPOUT, value, sigma).expected().at(0)["x"]
        assert expected.at(place)["dropout"] == pytest.approx(there, abs=1e-12)
    moving = replace(
        Schedule.constant(SearchSpace({"x": Float(0, 1)}), {"x": 0.1}),
        spreads={"x": Track("linear", (0.2, 0.6), (0.0, 2.0))},
    ).expected()
    assert {0.2, 0.6} < {*moving.knots()} and len(moving.knots()) < 10
    last = held(Float(0, 1), 0.1, 2.0).expected().at(0)["x"]
    assert (moving.at(0)["x"], moving.at(1)["x"]) == (0.1, last)
    for place, sigma in ((0.25, 0.25), (0.4, 1.0), (0.55, 1.75)):
        there = held(Float(0, 1), 0.1, sigma).expected().at(0)["x"]
        assert moving.at(place)["x"] == pytest.approx(there, abs=1e-3)


@pytest.mark.parametrize("kind", ["steps", "linear", "cosine", "cosine_power", "cubic", "cyclical"])
def test_searched_forms_have_a_mean_too(kind: Any) -> None:
    form = Form(kind, 2 if kind in ("linear", "cyclical") else 3)
    space = SearchSpace({"x": Float(0, 1, schedule=form)})
    values = dict(zip(space.coordinates(), [0.05, 0.3, 0.1], strict=False))
    schedule = replace(space.schedule(values), spreads={"x": Track("constant", (0.0,), (1.5,))})
    expected = schedule.expected()
    assert expected.tracks["x"].form == ("steps" if kind == "steps" else "linear")
    for place in (0.0, 0.11, 0.25, 0.4, 0.5, 0.77, 1.0):
        value = schedule.at(place)["x"]
        there = held(Float(0, 1), value, 1.5).expected().at(0)["x"]
        assert expected.at(place)["x"] == pytest.approx(there, abs=2e-3)


def test_a_band_reaches_one_sigma_to_both_sides() -> None:
    low, high = held(Float(0, 1), 0.5, 1.0).band(0.4)["x"]
    assert (low, high) == pytest.approx((1 / (1 + math.e), math.e / (1 + math.e)))
    low, high = held(Float(0, 1), 0.5, 1.0).band(0.4, reach=2.0)["x"]
    assert low == pytest.approx(1 / (1 + math.e**2))
    ends = held(Float(0, 1, size=2), (0.0, 0.5), (1.0, 0.0)).band(0.0)["x"]
    assert ends[0] == (0.0, 0.5)
    assert ends[1] == pytest.approx((1e-3 * math.e, 0.5), rel=0.01)
    low, high = held(Int(1, 6), 6, 1.0).band(0.0)["x"]
    assert 3 < low < high == 6  # type: ignore[operator]


@FIXED
@given(st.sampled_from(sorted(KINDS)), st.floats(0, 1), st.floats(0, 1000), st.floats(0, 1))
def test_mean_and_band_stay_in_range_whatever_the_spread(
    name: str, place: float, sigma: float, progress: float
) -> None:
    domain = KINDS[name]
    value = domain.from_unit(place)
    schedule = held(domain, value, sigma)
    assert domain.contains(schedule.expected().at(progress)["x"])
    for low, high in schedule.band(progress).values():
        assert low <= value <= high  # type: ignore[operator]
        assert units(domain, low)[0] <= units(domain, high)[0]


# -- what people see ----------------------------------------------------------------------------


def lines(schedule: Schedule) -> Iterator[str]:
    from hpo.cli import _expected

    yield from _expected.lines(schedule.thin(8, 0.02)[0])


def test_the_command_shows_means_beside_values() -> None:
    rows = [(p, {"x": v, "y": 0.5}, {"x": s, "y": 1.0}) for p, v, s in ((0, 0.1, 2.0), (1, 0.1, 0))]
    space = SearchSpace({"x": Float(0, 1), "y": Float(0, 1)})
    schedule = Schedule.recorded(space, rows)
    assert list(lines(schedule)) == [
        "",
        "Found under perturbed knobs. On average they were not at their values:",
        "progress      x  x expected",
        "      0%  0.100       0.203",
        "    100%  0.100       0.100",
        "A .json file keeps the perturbations, .csv and .py hold the values alone.",
    ]
    means = {p: schedule.expected().at(p)["x"] for p in (0, 1)}
    assert means == {0: pytest.approx(0.203, abs=5e-4), 1: 0.1}
    constant = held(Float(0, 1), 0.1, 2.0)
    assert list(lines(constant))[3].split() == ["always", "0.100", "0.203"]


def test_the_command_says_nothing_where_there_is_nothing_to_say() -> None:
    assert list(lines(Schedule.constant(SPACE, START))) == []
    assert list(lines(held(Float(0, 1), 0.1, 0.1))) == [
        "Found under perturbed knobs, on average at these values within 1%.",
        "A .json file keeps the perturbations, .csv and .py hold the values alone.",
    ]


def test_a_picture_has_a_band_where_there_is_a_spread(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    from hpo import plot

    schedule = example()
    figure = plot.picture(schedule)
    panels = {axis.get_ylabel(): axis for axis in figure.axes}
    banded = {name for name, axis in panels.items() if axis.collections}
    assert banded == {"dropout", "depth"}, "vectors are not drawn"
    (box,) = (c.get_paths()[0].get_extents() for c in panels["dropout"].collections)
    bands: list[Any] = [schedule.band(i / 399)["dropout"] for i in range(400)]
    assert box.y0 == pytest.approx(min(low for low, _ in bands))
    assert box.y1 == pytest.approx(max(high for _, high in bands))
    pyplot.close(figure)
    plot.draw(schedule, tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 1000 and not pyplot.get_fignums()


def test_the_exports_without_spreads_hold_the_values() -> None:
    ours, bare = example(), replace(example(), spreads={})
    assert schedulefile.to_csv(ours) == schedulefile.to_csv(bare)
    assert schedulefile.to_python(ours) == schedulefile.to_python(bare)
    assert SimpleNamespace(**ours.at(0.5)).dropout == 0.3


@pytest.mark.usefixtures("quick")
def test_a_study_that_found_spreads_is_told_and_saved_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import studies
    from shell import hpo

    studies.run(tmp_path, trials=1, space=studies.X)
    found = held(Float(0, 1), 0.1, 2.0)
    monkeypatch.setattr("hpo.ledger.schedule_of", lambda *_: found)
    where = ("schedule", "s", "--mlruns", tmp_path)
    told = hpo(*where, "--out", tmp_path / "out.json").out.splitlines()
    assert told[1].split() == ["always", "0.100"]
    assert "  always  0.100       0.203" in told
    assert schedulefile.read(tmp_path / "out.json") == found
    document = hpo(*where, "--json").document
    assert Schedule.from_json(document["schedule"]) == found
