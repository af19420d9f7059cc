"""Schedules: forms follow their formulas, stay in range, thin within their bound, round trip."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces._form import KINDS as FORM_KINDS
from search_spaces.domains import Choice, Domain, Float, Form, Int, Value, units
from search_spaces.errors import HpoError
from search_spaces.schedule import Schedule, Track
from search_spaces.space import SearchSpace

FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
PROGRESS = st.floats(0, 1)

LINEAR = Float(0, 10)
KINDS: dict[str, Domain] = {
    "plain": Float(-1, 3),
    "decay": Float(1e-6, 1e-1, "log", off=0),
    "rate": Float(0.01, 0.99, "logit"),
    "noise": Float(0, 1, "log+0"),
    "depth": Int(1, 5),
    "width": Int(1, 300, "log"),
    "mode": Choice(("a", True, None, 2)),
    "layers": Float(0, 1, size=2),
}


def single(form: Form, values: list[float], domain: Domain = LINEAR) -> Schedule:
    """A schedule of one knob x with these values at the knots of a searched form."""
    from dataclasses import replace

    assert not isinstance(domain, Choice)
    space = SearchSpace({"x": replace(domain, schedule=form)})
    return space.schedule(dict(zip(space.coordinates(), values, strict=True)))


def x_at(schedule: Schedule, progress: float) -> float:
    value = schedule.at(progress)["x"]
    assert isinstance(value, int | float)
    return value


def ten_times(weight: Callable[[float], float]) -> Callable[[float], float]:
    return lambda t: 10 * weight(t)


def cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


def cosine_power(t: float, p: float) -> float:
    c = cosine(t)
    return (p ** (1 + c) - p) / (p**2 - p)


def triangle(t: float, cycles: int) -> float:
    phase = t * cycles % 1
    return 2 * phase if phase <= 0.5 else 2 - 2 * phase


def wave(t: float, cycles: int) -> float:
    return (1 - math.cos(2 * math.pi * cycles * t)) / 2


def staged(t: float, second: float, third: float) -> float:
    return 1.0 if t < second else 5.0 if t < third else 3.0


FORMULAS = [
    (Form("constant"), [4.0], lambda t: 4.0),
    (Form("steps", 2), [2.0, 5.0], lambda t: 2.0 if t < 0.5 else 5.0),
    (Form("steps", 4), [1.0, 2.0, 3.0, 4.0], lambda t: min(math.floor(t * 4) + 1.0, 4.0)),
    (Form("linear", 2), [2.0, 6.0], lambda t: 2 + 4 * t),
    (Form("linear", 3), [0.0, 10.0, 0.0], lambda t: 10 * (1 - abs(1 - 2 * t))),
    (Form("cosine"), [10.0, 0.0], ten_times(cosine)),
    (Form("cosine", 3), [10.0, 0.0, 0.0], lambda t: 10 * cosine(2 * t) if t < 0.5 else 0.0),
    (Form("cosine_power"), [10.0, 0.0], ten_times(lambda t: cosine_power(t, 10.0))),
    (Form("cosine_power", power=0.2), [10.0, 0.0], ten_times(lambda t: cosine_power(t, 0.2))),
    (Form("cosine_power", power=1), [10.0, 0.0], ten_times(cosine)),
    (Form("cyclical", cycles=3), [0.0, 10.0], ten_times(lambda t: triangle(t, 3))),
    (Form("cyclical", cycles=3, wave="sine"), [0.0, 10.0], ten_times(lambda t: wave(t, 3))),
    (Form("exponential"), [10.0, 0.0], lambda t: 10.01 * 1001**-t - 0.01),
    (Form("exponential", 3), [0.0, 0.0, 10.0], lambda t: 0.01 * 1001 ** max(2 * t - 1, 0) - 0.01),
    (Form("ramp", at=(0.25,)), [10.0, 2.0], lambda t: max(10 - 32 * t, 2.0)),
    (Form("ramp"), [1.0, 9.0, 0.4], lambda t: min(1 + 20 * t, 9.0)),
    (Form("stages", at=(0.2, 0.6)), [1.0, 5.0, 3.0], lambda t: staged(t, 0.2, 0.6)),
    (Form("stages", 3), [1.0, 5.0, 3.0, 0.2, 0.6], lambda t: staged(t, 0.2, 0.6)),
    (Form("stages", 3), [1.0, 5.0, 3.0, 0.5, 0.3], lambda t: 1.0 if t < 0.5 else 3.0),
    (Form("linear", 3, monotone="rising"), [0.0, 10.0, 2.0], lambda t: min(20 * t, 10.0)),
    (Form("steps", 3, monotone="falling"), [5.0, 8.0, 2.0], lambda t: 5.0 if t < 2 / 3 else 2.0),
    (Form("cubic", 2), [0.0, 10.0], lambda t: 10 * t),
    (Form("cubic", 3), [5.0, 5.0, 5.0], lambda t: 5.0),
]


@pytest.mark.parametrize(
    ("form", "values", "formula"),
    FORMULAS,
    ids=[f"{form.kind}-{number}" for number, (form, _, _) in enumerate(FORMULAS)],
)
def test_each_form_follows_its_formula(
    form: Form, values: list[float], formula: Callable[[float], float]
) -> None:
    schedule = single(form, values)
    for index in range(201):
        t = index / 200
        assert x_at(schedule, t) == pytest.approx(formula(t), abs=1e-9)


def test_a_power_next_to_one_is_the_cosine() -> None:
    for power in (1 - 1e-7, 1 + 1e-7, 1 + 1e-12):
        schedule = single(Form("cosine_power", power=power), [10.0, 0.0])
        assert x_at(schedule, 0.3) == pytest.approx(10 * cosine(0.3), abs=1e-5)


def test_cubic_is_the_monotone_interpolant() -> None:
    from scipy.interpolate import PchipInterpolator

    values = [0.0, 1.0, 9.0, 9.5]
    schedule = single(Form("cubic", 4), values)
    oracle = PchipInterpolator([0, 1 / 3, 2 / 3, 1], values)
    for index in range(101):
        assert x_at(schedule, index / 100) == pytest.approx(float(oracle(index / 100)), abs=1e-9)


def test_curves_are_drawn_on_the_scale_of_the_knob() -> None:
    decay = single(Form("linear", 2), [1e-6, 1e-2], Float(1e-6, 1e-1, "log"))
    assert x_at(decay, 0.5) == pytest.approx(1e-4)
    depth = single(Form("linear", 2), [1, 3], Int(1, 5))
    assert [depth.at(t)["x"] for t in (0, 0.2, 0.3, 0.7, 0.8, 1)] == [1, 1, 2, 2, 3, 3]


@FIXED
@given(
    st.sampled_from([kind for kind in FORM_KINDS if kind != "constant"]),
    st.sampled_from([d for d in KINDS.values() if not isinstance(d, Choice) and d.size is None]),
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.floats(0.01, 1000),
    st.sampled_from([None, "rising", "falling"]),
    PROGRESS,
)
def test_a_searched_schedule_never_leaves_the_range(
    kind: Any,
    domain: Domain,
    places: list[float],
    power: float,
    monotone: str | None,
    progress: float,
) -> None:
    places = places[:2] if kind in ("cyclical", "ramp") else places
    monotone = None if kind == "cyclical" else monotone
    form = Form(kind, len(places), power=power, monotone=monotone)
    values: list[Any] = [domain.from_unit(place) for place in places]
    schedule = single(form, [*values, *form.waits.values()], domain)
    value = x_at(schedule, progress)
    assert domain.contains(value)
    assert min(values) <= value <= max(values)
    sign = -1 if monotone == "falling" else 1
    if monotone is not None:
        assert sign * value >= sign * values[0]
        assert sign * x_at(schedule, progress / 2) <= sign * value
        values = [max(values[: i + 1], key=lambda v: sign * v) for i in range(len(values))]
    for knot, expected in zip(form.progress(), values, strict=True):
        if kind != "cyclical":
            assert schedule.at(knot)["x"] == expected


def test_exponential_is_straight_on_a_log_axis_whatever_the_scale() -> None:
    for domain in (
        Float(1e-3, 0.7),
        Float(1e-3, 0.9, "logit"),
        Float(1e-6, 1.0, "log"),
        Float(1e-4, 1.0, "log+0"),
        Int(1, 5000),
    ):
        low, high = (2, 2048) if isinstance(domain, Int) else (2e-3, 0.512)
        schedule = single(Form("exponential"), [low, high], domain)
        for t in (0.125, 0.5, 0.75):
            expected = low * (high / low) ** t
            off = 0.51 if isinstance(domain, Int) else 1e-9
            assert x_at(schedule, t) == pytest.approx(expected, abs=off)
    below = single(Form("exponential"), [-1.0, 3.0], Float(-1, 3))
    assert x_at(below, 0.5) == pytest.approx(-1.004 + 0.004 * 1001**0.5)


def test_each_strength_of_a_vector_has_its_own_way_and_they_share_places() -> None:
    form = Form("stages", 2, monotone="falling")
    space = SearchSpace({"v": Float(0, 1, size=2, schedule=form)})
    assert list(space.coordinates()) == [
        "v[0]@stage1", "v[1]@stage1", "v[0]@stage2", "v[1]@stage2", "v@until1",
    ]  # fmt: skip
    found = dict(zip(space.coordinates(), [0.2, 0.8, 0.6, 0.3, 0.25], strict=True))
    assert space.schedule(found).tracks["v"] == Track(
        "steps", (0.0, 0.25), ((0.2, 0.8), (0.2, 0.3))
    )
    many = SearchSpace(
        {"v": Float(0, 1, size=70, schedule=Form("ramp"), start=(0.1,) * 69 + (0.2,))}
    )
    assert not many.coordinates(), "its strengths start from different values"
    assert not many.schedule({}).moving(0.0)


def test_a_stage_that_never_begins_is_left_out() -> None:
    track = single(Form("stages", 3), [1.0, 5.0, 3.0, 0.5, 0.5]).tracks["x"]
    assert track == Track("steps", (0.0, 0.5), (1.0, 3.0))


def test_progress_beyond_the_ends_is_clamped() -> None:
    schedule = single(Form("linear", 2), [2.0, 6.0])
    assert (x_at(schedule, -3), x_at(schedule, 7)) == (2.0, 6.0)


@st.composite
def recorded(draw: st.DrawFn, knobs: tuple[str, ...] = tuple(KINDS)) -> Schedule:
    """A recorded path through knobs of every kind."""
    names = draw(st.lists(st.sampled_from(knobs), min_size=1, max_size=3, unique=True))
    space = SearchSpace({name: KINDS[name] for name in names})
    progress = draw(st.lists(PROGRESS, min_size=1, max_size=14, unique=True))
    place = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]))

    def value(domain: Domain) -> Value:
        if isinstance(domain, Float) and domain.size is not None:
            return tuple(domain.from_unit(draw(place)) for _ in range(domain.size))
        if domain.off is not None and draw(st.integers(0, 4)) == 0:
            return domain.off
        return domain.from_unit(draw(place))

    return Schedule.recorded(
        space, [(t, {name: value(domain) for name, domain in space.items()}) for t in progress]
    )


def gap(schedule: Schedule, other: Schedule, progress: float) -> float:
    """The largest difference of two schedules at a progress, in unit coordinates."""
    a, b = schedule.at(progress), other.at(progress)
    return max(
        abs(x - y)
        for name, domain in schedule.space.items()
        for x, y in zip(units(domain, a[name]), units(domain, b[name]), strict=True)
    )


@settings(FIXED, max_examples=250)
@given(recorded(), st.integers(1, 9), st.floats(0, 0.3), st.lists(PROGRESS, max_size=12))
def test_a_thinned_recording_stays_within_its_stated_bound(
    schedule: Schedule, knots: int, tolerance: float, places: list[float]
) -> None:
    thinned, bound = schedule.thin(knots, tolerance)
    assert len(thinned.knots()) <= max(knots, 1)
    assert (
        len({track.progress for track in thinned.tracks.values() if len(track.progress) > 1}) <= 1
    )
    middles = [(a + b) / 2 for a, b in zip(schedule.knots(), schedule.knots()[1:], strict=False)]
    for place in {0.0, 1.0, *places, *schedule.knots(), *middles}:
        assert gap(schedule, thinned, place) <= bound + 1e-9


@FIXED
@given(recorded(), st.lists(PROGRESS, max_size=5))
def test_with_enough_knots_nothing_is_lost(schedule: Schedule, places: list[float]) -> None:
    thinned, _ = schedule.thin(knots=50)
    for place in schedule.knots():
        assert gap(schedule, thinned, place) <= 1e-9


@FIXED
@given(recorded(("plain", "decay", "rate", "layers")), st.floats(0.01, 0.3))
def test_thinning_stops_at_the_tolerance(schedule: Schedule, tolerance: float) -> None:
    thinned, bound = schedule.thin(knots=50, tolerance=tolerance)
    assert bound <= tolerance
    assert len(thinned.knots()) <= len(schedule.knots())


def test_thinning_finds_the_corners() -> None:
    space = SearchSpace({"x": LINEAR, "still": Float(0, 1)})
    rows = [(i / 100, {"x": min(i, 30) / 10, "still": 0.5}) for i in range(101)]
    thinned, bound = Schedule.recorded(space, rows).thin(knots=8)
    assert thinned.knots() == [0.0, 0.3, 1.0]
    assert bound < 1e-9
    assert thinned.tracks["still"] == Track("constant", (0.0,), (0.5,))


def test_a_curve_is_thinned_to_straight_lines() -> None:
    thinned, bound = single(Form("cosine"), [10.0, 0.0]).thin(knots=5)
    assert thinned.tracks["x"].form == "linear"
    assert 0.005 < bound < 0.05
    constant, zero = Schedule.constant(SearchSpace({"x": LINEAR}), {"x": 3.0}).thin()
    assert (constant.knots(), zero) == ([0.0], 0.0)


def test_a_wave_is_thinned_within_its_bound() -> None:
    for cycles in (1, 7, 400):
        schedule = single(Form("cyclical", cycles=cycles, wave="sine"), [10.0, 0.0])
        thinned, bound = schedule.thin(knots=9)
        for index in range(5000):
            assert gap(schedule, thinned, index / 4999) <= bound + 0.01
    assert bound > 0.4


@pytest.mark.parametrize(("knots", "tolerance"), [(0, 0.0), (3, -1.0), (3, math.nan)])
def test_impossible_thinning_is_refused(knots: int, tolerance: float) -> None:
    with pytest.raises(HpoError, match="cannot be thinned"):
        single(Form("linear"), [0.0, 1.0]).thin(knots, tolerance)


@FIXED
@given(recorded())
def test_json_round_trip_is_exact(schedule: Schedule) -> None:
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json(), allow_nan=False)))
    assert again == schedule
    assert again.to_json() == schedule.to_json()
    for place in schedule.knots():
        assert repr(again.at(place)) == repr(schedule.at(place))


@pytest.mark.parametrize("form", [form for form, _, _ in FORMULAS], ids=str)
def test_searched_forms_round_trip(form: Form) -> None:
    space = SearchSpace({"x": Float(0, 10, schedule=form), "v": Float(0, 1, size=2, schedule=form)})
    schedule = space.schedule({})
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    used = pickle.loads(pickle.dumps(schedule))
    assert used == schedule
    assert used.at(0.3) == schedule.at(0.3)


@FIXED
@given(recorded(), PROGRESS, PROGRESS)
def test_after_moving_says_no_nothing_changes(schedule: Schedule, first: float, by: float) -> None:
    if not schedule.moving(first):
        assert schedule.at(first) == schedule.at(min(first + by, 1.0))


def test_moving() -> None:
    ramp = SearchSpace({"x": LINEAR})
    schedule = Schedule.recorded(ramp, [(t, {"x": min(t, 0.4)}) for t in (0.0, 0.2, 0.4, 0.7, 1.0)])
    assert [schedule.moving(t) for t in (0.0, 0.39, 0.4, 1.0)] == [True, True, False, False]
    assert single(Form("cyclical"), [0.0, 1.0]).moving(0.99)
    assert not single(Form("cyclical"), [1.0, 1.0]).moving(0.0)
    assert single(Form("cyclical", wave="sine"), [0.0, 1.0]).moving(0.99)
    assert [single(Form("ramp"), [0.0, 1.0, 0.3]).moving(t) for t in (0.29, 0.3)] == [True, False]
    assert [single(Form("steps", 2), [0.0, 1.0]).moving(t) for t in (0.49, 0.5)] == [True, False]


@settings(FIXED, max_examples=25)
@given(recorded())
def test_distance_is_zero_to_itself_and_symmetric(schedule: Schedule) -> None:
    assert schedule.distance(schedule) == 0
    start = Schedule.constant(schedule.space, {})
    assert schedule.distance(start) == pytest.approx(start.distance(schedule))
    assert 0 <= schedule.distance(start) <= 1


def test_distance_is_a_share_of_the_range() -> None:
    space = SearchSpace({"x": LINEAR, "y": LINEAR})
    low = Schedule.constant(space, {"x": 0.0, "y": 0.0})
    assert low.distance(Schedule.constant(space, {"x": 10.0, "y": 10.0})) == pytest.approx(1)
    assert low.distance(Schedule.constant(space, {"x": 10.0, "y": 0.0})) == pytest.approx(0.5)
    ramp = Schedule.recorded(space, [(0, {"x": 0, "y": 0}), (1, {"x": 10, "y": 0})])
    assert low.distance(ramp) == pytest.approx(0.25)
    with pytest.raises(HpoError, match="only one of them has y"):
        low.distance(single(Form(), [1.0]))


def test_recorded_sorts_keeps_the_later_row_and_rests_unnamed_knobs() -> None:
    space = SearchSpace({"x": LINEAR, "decay": KINDS["decay"], "mode": KINDS["mode"]})
    rows: list[tuple[float, dict[str, Value]]] = [
        (1.0, {"x": 4.0, "mode": True}),
        (0.0, {"x": 1.0, "mode": "a"}),
        (0.5, {"x": 9.0}),
        (0.5, {"x": 2.0}),
    ]
    schedule = Schedule.recorded(space, rows)
    assert schedule.tracks["x"] == Track("linear", (0.0, 0.5, 1.0), (1.0, 2.0, 4.0))
    assert schedule.tracks["decay"].values == (0.0,)
    assert [schedule.at(t)["mode"] for t in (0.0, 0.99, 1.0)] == ["a", "a", True]


def test_single_precision_at_an_end_of_the_range_is_accepted() -> None:
    rounded = np.array([0.1, 0.7], dtype=np.float32)
    ends = [float(end) for end in np.nextafter(rounded, np.float32([0.0, 1.0]))]
    assert ends[0] < 0.1 < 0.7 < ends[1]
    space = SearchSpace({"x": Float(0.1, 0.7)})
    schedule = Schedule.recorded(space, [(0, {"x": ends[0]}), (1, {"x": ends[1]})])
    assert schedule.at(0)["x"] == 0.1
    assert schedule.at(1)["x"] == 0.7


def test_pin_adds_knobs_held_constant() -> None:
    schedule = single(Form("linear", 2), [2.0, 6.0])
    domains = {"smoothing": Float(0, 0.4, limits=(0, 1)), "mode": KINDS["mode"]}
    pinned = schedule.pin(domains, {"smoothing": 0.9, "mode": True, "own": "text", "v": (1.0, 1.0)})
    assert pinned.at(0.5) == {"x": 4.0, "smoothing": 0.9, "mode": True, "own": "text", "v": (1, 1)}
    assert Schedule.from_json(pinned.to_json()) == pinned
    assert schedule.pin({}, {"x": 3.0}).at(1) == {"x": 3.0}
    with pytest.raises(HpoError, match=r"value 1.5 is impossible for this knob") as caught:
        schedule.pin(domains, {"smoothing": 1.5})
    assert caught.value.path == ("smoothing", "value")
    for wrong in ("much", (0.1, 0.2), True):
        with pytest.raises(HpoError):
            schedule.pin(domains, {"smoothing": wrong})
    with pytest.raises(HpoError, match="not among the options"):
        schedule.pin(domains, {"mode": "b"})


def test_table_has_evenly_spaced_rows() -> None:
    schedule = single(Form("linear", 2), [0.0, 10.0])
    assert schedule.table(3) == [(0.0, {"x": 0.0}), (0.5, {"x": 5.0}), (1.0, {"x": 10.0})]
    assert schedule.table([0.25]) == [(0.25, {"x": 2.5})]


def test_constant_fills_in_the_start_and_knows_its_knobs() -> None:
    space = SearchSpace({"x": LINEAR, "depth": Int(1, 5)})
    schedule = Schedule.constant(space, {"depth": 2.0})
    assert schedule.at(0.7) == {"x": 5.0, "depth": 2}
    with pytest.raises(HpoError, match="did you mean 'depth'"):
        Schedule.constant(space, {"dpeth": 2})


GOOD = {
    "format": 1,
    "kind": "hpo-schedule",
    "space": {"x": {"low": 0.0, "high": 10.0}, "mode": {"options": ["a", "b"]}},
    "tracks": {
        "x": {"form": "linear", "progress": [0.0, 0.5, 1.0], "values": [1.0, 2.0, 3.0]},
        "mode": {"form": "steps", "progress": [0.0, 0.5], "values": ["a", "b"]},
    },
    "about": {"study": "digits-stn"},
}


def changed(*path: str | int, to: object) -> dict[str, Any]:
    """The good document with one entry replaced (or removed, when `to` is ...)."""
    document: dict[str, Any] = copy.deepcopy(GOOD)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return document


BAD: list[tuple[object, str]] = [
    ([], "schedule [] is not a mapping"),
    ("{}", "schedule '{}' is not a mapping"),
    ({1: 2}, "schedule {1: 2} is not a mapping"),
    ({}, "this is not a schedule: kind is null, not 'hpo-schedule'"),
    (changed("kind", to="other"), "this is not a schedule: kind is 'other'"),
    (
        changed("format", to=3),
        "schedule format 3 is not known here, only 1 and 2 are\n"
        "it was written by a newer version: upgrade hpo-schedules",
    ),
    (changed("format", to=True), "schedule format true is not known here"),
    (changed("format", to="1"), "schedule format '1' is not known here"),
    (changed("format", to=...), "schedule format null is not known here"),
    (changed("trakcs", to={}), "unknown key 'trakcs', did you mean 'tracks'?"),
    (changed("space", to=[]), "space [] is not a mapping"),
    (changed("space", "x", to={"low": 1}), "x has no high"),
    (changed("space", "x", "size", to=10**9), "size 1000000000 lies outside"),
    (changed("space", "x", "when", to={"y": 1}), "unknown knob 'y'"),
    (changed("space", "a b", to={"low": 0, "high": 1}), "'a b' cannot be the name of a knob"),
    (
        changed("space", to={f"k{i}": {"low": 0, "high": 1} for i in range(2001)}),
        "2001 knobs: at most 2000",
    ),
    (changed("tracks", to=None), "tracks null is not a mapping"),
    (changed("tracks", "x", to=...), "knob x has no track"),
    (changed("tracks", "y", to=GOOD["tracks"]["x"]), "unknown knob 'y'"),  # type: ignore[index]
    (changed("tracks", "x", to=3), "track 3 is not a mapping"),
    (changed("tracks", "x", "knots", to=3), "unknown key 'knots'"),
    (
        changed("tracks", "x", "form", to="lin"),
        "unknown schedule form 'lin', did you mean 'linear'?",
    ),
    (changed("tracks", "x", "form", to=7), "form 7 is not text"),
    (changed("tracks", "x", "progress", to=...), "progress null is not a list"),
    (changed("tracks", "x", "progress", to=[0.0, 1.0]), "2 knots but 3 values"),
    (changed("tracks", "x", "progress", to=[0.0, 0.6, 0.5]), "progress does not rise"),
    (changed("tracks", "x", "progress", to=[0.0, 0.5, 0.5]), "progress does not rise"),
    (changed("tracks", "x", "progress", to=[0.0, 0.5, 1.5]), "progress lies outside 0..1"),
    (changed("tracks", "x", "progress", to=[0.0, math.nan, 1.0]), "progress is nan"),
    (changed("tracks", "x", "progress", to=["0", 0.5, 1.0]), "progress '0' is text"),
    (changed("tracks", "x", "progress", to=[0.0, 0.5, 10**400]), "progress is too large"),
    (changed("tracks", "x", "progress", to=[]), "form linear needs at least 1 knots"),
    (changed("tracks", "x", "values", to="123"), "values '123' is not a list"),
    (changed("tracks", "x", "values", 1, to=11.0), "value 11 is not possible for this knob"),
    (changed("tracks", "x", "values", 1, to=10**400), "value a huge integer is not possible"),
    (changed("tracks", "x", "values", 1, to=math.inf), "value inf is not possible"),
    (changed("tracks", "x", "values", 1, to="2"), "value '2' is not possible"),
    (changed("tracks", "x", "values", 1, to=None), "value null is not possible"),
    (changed("tracks", "x", "values", 1, to=True), "value true is not possible"),
    (changed("tracks", "x", "values", 1, to=[1.0]), "value (1.0,) is not possible"),
    (changed("tracks", "x", "values", 1, to=["__import__"]), "value '__import__' is text"),
    (changed("tracks", "x", "values", 1, to={"a": 1}), "value {'a': 1} is not possible"),
    (changed("tracks", "x", "form", to="constant"), "form constant has too many knots"),
    (changed("tracks", "x", "form", to="cyclical"), "form cyclical has too many knots"),
    (changed("tracks", "x", "form", to="cosine_power"), "options of form cosine_power: power"),
    (changed("tracks", "x", "options", to={"power": 2}), "options of form linear: none"),
    (changed("tracks", "x", "options", to=[]), "options [] is not a mapping"),
    (changed("tracks", "mode", "values", 1, to="c"), "value 'c' is not possible"),
    (changed("tracks", "mode", "form", to="linear"), "form linear: the options of a choice"),
    (
        changed(
            "tracks",
            "x",
            to={
                "form": "cyclical",
                "progress": [0, 0.5],
                "values": [1, 2],
                "options": {"cycles": 1e9},
            },
        ),
        "cycles lies outside 1..1000",
    ),
]


def test_a_good_document_is_read() -> None:
    schedule = Schedule.from_json(GOOD)
    assert schedule.at(0.75) == {"x": 2.5, "mode": "b"}
    assert schedule.to_json()["tracks"] == GOOD["tracks"]


@pytest.mark.parametrize(("document", "text"), BAD, ids=lambda v: str(v)[:50])
def test_a_bad_document_is_refused_with_a_sentence(document: object, text: str) -> None:
    with pytest.raises(HpoError) as caught:
        Schedule.from_json(document)
    assert str(caught.value).startswith(text)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = """space tracks format kind space/x space/x/low space/mode/options space/x/schedule
space/x/when tracks/x tracks/x/form tracks/x/progress tracks/x/values tracks/x/options"""


@FIXED
@given(st.sampled_from(PLACES.split()), JUNK)
def test_any_json_gives_a_schedule_or_an_error(path: str, junk: object) -> None:
    try:
        schedule = Schedule.from_json(changed(*path.split("/"), to=junk))
    except HpoError as error:
        assert str(error)
    else:
        assert all(schedule.space[name].contains(v) for name, v in schedule.at(0.3).items())
