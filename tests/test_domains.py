"""Domains: values, unit interval and free tensors map onto each other; bad ranges are explained."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces.domains import Choice, Domain, Float, Form, Int, parse
from search_spaces.errors import HpoError

FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)
UNIT = st.floats(0, 1)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    """Float domains of every scale, with ends that doubles can tell apart."""
    scale = draw(st.sampled_from(["linear", "log", "logit", "log+0"]))
    if scale == "linear":
        low = draw(st.floats(-1e6, 1e6))
        high = low + draw(st.floats(1e-3, 1e6)) * max(1.0, abs(low))
    elif scale == "logit":
        low = draw(st.floats(1e-6, 0.98))
        high = draw(st.floats(low + 1e-3, 0.999))
    else:
        low = draw(st.floats(1e-12, 1e6))
        high = low * draw(st.floats(1.01, 1e9))
        low = draw(st.sampled_from([low, 0.0])) if scale == "log+0" else low
    return Float(low, high, scale=scale)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    scale = draw(st.sampled_from(["linear", "log"]))
    low = draw(st.integers(1 if scale == "log" else -1000, 1000))
    return Int(low, low + draw(st.integers(1, 5000)), scale=scale)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from("abcde"))
CHOICES = st.lists(SCALARS, min_size=1, unique_by=lambda v: (isinstance(v, bool), v)).map(
    lambda options: Choice(tuple(options))
)
DOMAINS = st.one_of(floats(), ints(), CHOICES)


@FIXED
@given(DOMAINS, UNIT)
def test_every_place_in_the_unit_interval_has_a_value_that_comes_back(
    domain: Domain, unit: float
) -> None:
    value = domain.from_unit(unit)
    assert domain.contains(value)
    again = domain.from_unit(domain.to_unit(value))
    if isinstance(domain, Float):
        width = domain.high - domain.low
        assert math.isclose(again, value, rel_tol=1e-9, abs_tol=1e-9 * width)
        assert abs(domain.to_unit(value) - unit) <= 1e-9 or value == 0
    else:
        assert again == value
        assert type(again) is type(value)


@FIXED
@given(DOMAINS, UNIT, UNIT)
def test_the_unit_map_is_monotone_and_stays_in_the_range(
    domain: Domain, first: float, second: float
) -> None:
    low, high = sorted([first, second])
    a, b = domain.from_unit(low), domain.from_unit(high)
    if isinstance(domain, Choice):
        assert domain.to_unit(a) <= domain.to_unit(b)
    else:
        rounding = 1e-12 if isinstance(domain, Float) else 0.0
        assert a <= b + rounding * abs(b)  # type: ignore[arg-type, operator]
        assert domain.to_unit(a) <= domain.to_unit(b) + 1e-9
    assert 0 <= domain.to_unit(a) <= 1


@FIXED
@given(floats(), st.lists(st.floats(-60, 60), min_size=2, max_size=6), st.booleans())
def test_the_free_map_is_monotone_and_stays_in_the_range(
    domain: Float, places: list[float], single: bool
) -> None:
    free = torch.tensor(sorted(places), dtype=torch.float32 if single else torch.float64)
    values = domain.from_free(free)
    assert values.dtype == free.dtype
    rounding = 4 * torch.finfo(free.dtype).eps * values.abs()[1:]
    assert bool((values.diff() >= -rounding).all())
    assert all(domain.contains(domain.settle(value)) for value in values.tolist())
    if not single:
        assert domain.smallest <= float(values[0]) <= float(values[-1]) <= domain.high


@FIXED
@given(floats(), st.floats(0.12, 0.98))
def test_free_numbers_come_back_and_have_a_slope(domain: Float, unit: float) -> None:
    value = domain.from_unit(unit)
    free = torch.tensor(domain.to_free(value), dtype=torch.float64, requires_grad=True)
    result = domain.from_free(free)
    width = domain.high - domain.low
    assert math.isclose(result.item(), value, rel_tol=1e-8, abs_tol=1e-8 * width)
    (slope,) = torch.autograd.grad(result, free)
    assert float(slope) > 0


def test_a_knob_that_starts_at_an_end_can_leave_it() -> None:
    for domain in (Float(0, 0.7), Float(1e-6, 1, "log"), Float(0, 1, "log+0")):
        free = torch.tensor(domain.to_free(domain.low), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(domain.from_free(free), free)
        assert float(slope) > 0
        assert domain.from_free(free) <= domain.smallest + 1e-2


@FIXED
@given(floats(), st.lists(UNIT, min_size=1, max_size=5))
def test_tensors_and_floats_take_the_same_way(domain: Float, places: list[float]) -> None:
    tensor = domain.from_unit(torch.tensor(places, dtype=torch.float64))
    expected = [domain.from_unit(place) for place in places]
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=torch.float64))


FORMS = [
    None,
    Form("cubic", 4),
    Form("cyclical"),
    Form("cyclical", wave="sine"),
    Form("ramp"),
    Form("ramp", at=(0.25,), monotone="rising"),
    Form("stages", 4),
    Form("stages", at=(0.2, 0.6)),
    Form("exponential", monotone="falling"),
]


@FIXED
@given(DOMAINS, st.booleans(), st.sampled_from(FORMS))
def test_spec_and_parse_are_inverse(domain: Domain, starts: bool, form: Form | None) -> None:
    if not isinstance(domain, Choice):
        changes: dict[str, Any] = {"off": 0, "schedule": form, "when": {"a": ("x", 1)}}
        if starts:
            changes["start"] = domain.from_unit(0.7)
        domain = type(domain)(domain.low, domain.high, domain.scale, **changes)
    again = parse("knob", domain.spec())
    assert again == domain
    assert again.start_value() == domain.start_value()
    assert pickle.loads(pickle.dumps(domain)) == domain


def test_log_plus_zero_has_an_exact_zero_with_a_tenth_of_the_interval() -> None:
    domain = Float(0, 1.0, scale="log+0")
    assert domain.smallest == 1e-6
    assert [domain.from_unit(u) for u in (0.0, 0.05, 0.0999)] == [0.0] * 3
    assert domain.from_unit(0.1) == 1e-6
    assert domain.from_unit(0.55) == pytest.approx(1e-3)
    assert domain.from_unit(1.0) == 1.0
    assert domain.contains(0.0)
    assert not domain.contains(1e-7)
    assert Float(1e-3, 1.0, scale="log+0").from_unit(0.1) == 1e-3


def test_starts() -> None:
    assert Float(0, 1).start_value() == 0.5
    assert Float(1e-4, 1, "log").start_value() == pytest.approx(1e-2)
    assert Float(0, 1, size=3).start_value() == (0.5, 0.5, 0.5)
    assert Float(0, 1, size=2, start=(0.1, 0.2)).start_value() == (0.1, 0.2)
    assert Int(1, 9).start_value() == 5
    assert Choice(("a", "b")).start_value() == "a"
    assert Choice(("a", "b"), start="b").start_value() == "b"


def test_off_is_allowed_outside_the_range() -> None:
    domain = Float(1e-6, 1e-1, "log", off=0)
    assert domain.contains(0)
    assert not domain.contains(1e-7)
    assert not domain.contains(True)
    assert domain.to_unit(0) == 0


def test_rounding_past_an_end_is_settled_and_nothing_else_is() -> None:
    domain = Float(0.1, 0.7)
    assert domain.settle(0.1 - 1e-9) == 0.1
    assert domain.settle(0.7 + 1e-9) == 0.7
    assert domain.settle(0.8) == 0.8
    assert not domain.contains(domain.settle(math.nan))
    assert not domain.contains(domain.settle(10**400))
    assert Int(1, 8).settle(4.0) == 4
    assert Choice((1, 2)).settle(2.0) == 2


@pytest.mark.parametrize("scale", ["linear", "log", "logit", "log+0"])
def test_a_range_of_one_value_works(scale: str) -> None:
    domain = Float(0.5, 0.5, scale)
    assert domain.start_value() == domain.from_unit(domain.to_unit(0.5)) == 0.5
    assert domain.from_free(torch.zeros(1)).item() == 0.5
    assert Int(2, 2).from_unit(Int(2, 2).to_unit(2)) == 2


def test_one_and_true_are_different_options() -> None:
    domain = Choice((1, True, "1", None))
    assert [domain.from_unit(domain.to_unit(v)) for v in (1, True, "1", None)] == [
        1,
        True,
        "1",
        None,
    ]
    assert not domain.contains(False)


DEFAULT = Float(0, 0.7, start=0.05, off=0, limits=(0, 0.99))
DECAY = Float(1e-6, 1e-1, "log", start=1e-4, off=0)


def test_parse_keeps_what_the_file_leaves_out() -> None:
    assert parse("dropout", None, DEFAULT) == DEFAULT
    assert parse("dropout", {"high": 0.5}, DEFAULT) == Float(0, 0.5, start=0.05, off=0)
    assert parse("dropout", {"low": 0.1}, DEFAULT).start_value() == pytest.approx(0.4)
    assert parse("weight_decay", {"low": 1e-5}, DECAY).spec()["scale"] == "log"
    loose = parse("weight_decay", {"low": 0, "scale": "log+0"}, DECAY)
    assert loose == Float(0, 1e-1, "log+0", start=1e-4, off=0)


def test_parse_builds_every_kind() -> None:
    assert parse("x", {"low": 0, "high": 1}) == Float(0, 1)
    assert parse("x", {"low": 1, "high": 8, "scale": "int"}) == Int(1, 8)
    assert parse("x", {"low": 1, "high": 8.0, "scale": "int log"}) == Int(1, 8, "log")
    assert parse("x", {"options": ["a", 2]}) == Choice(("a", 2))
    assert parse("x", {"low": 1, "high": 4}, Int(0, 9)) == Int(1, 4)
    assert parse("x", {"scale": "log"}, Int(1, 9, start=2)) == Int(1, 9, "log", start=2)
    assert parse("x", {"scale": "linear"}, Int(1, 9, "log")) == Int(1, 9)
    assert parse("x", {"scale": "log+0"}, Int(1, 9)) == Float(1, 9, "log+0")
    assert parse("x", {"scale": "int"}, Float(0, 9)) == Int(0, 9)
    assert parse("x", {"options": [0, 0.1]}, DEFAULT) == Choice((0, 0.1))
    assert parse("x", {"low": 0, "high": 1}, Choice(("a",))) == Float(0, 1)
    assert parse("x", {"start": "b"}, Choice(("a", "b"))) == Choice(("a", "b"), start="b")
    assert parse("x", {"size": 2}, DEFAULT).start_value() == (0.05, 0.05)
    assert parse("x", {"schedule": "cosine"}, DEFAULT).schedule == Form("cosine")
    assert parse("x", {"low": 0, "high": 1, "when": {"a": 1}}).when == {"a": (1,)}


GOLDEN: list[tuple[dict[str, Any] | object, Domain | None, tuple[str, ...], str]] = [
    (
        {"low": 0},
        DECAY,
        ("low",),
        "low 0 with scale log: the logarithm of 0 does not exist\n"
        'use scale: log+0 if "off" should be reachable, or a small low such as 1e-6',
    ),
    (
        {"low": -1},
        DECAY,
        ("low",),
        "low -1 with scale log: the logarithm of a negative number does not exist\n"
        'use scale: log+0 if "off" should be reachable, or a small low such as 1e-6',
    ),
    (
        {"low": 0.8},
        DEFAULT,
        ("low",),
        "low 0.8 is above high 0.7\nswap them: low: 0.7, high: 0.8",
    ),
    (
        {"high": math.inf},
        DEFAULT,
        ("high",),
        "high is inf: only finite numbers are possible\ngive a number such as 1e-3",
    ),
    ({"low": math.nan}, DEFAULT, ("low",), "low is nan: only finite numbers are possible"),
    (
        {"low": "1e-4"},
        DEFAULT,
        ("low",),
        "low '1e-4' is text, a number is due\nwrite it without quotes, low: 1e-4",
    ),
    (
        {"low": "small"},
        DEFAULT,
        ("low",),
        "low 'small' is text, a number is due\nfor example low: 0.5",
    ),
    ({"high": True}, DEFAULT, ("high",), "high true is a boolean, a number is due"),
    ({"high": [1]}, DEFAULT, ("high",), "high [1] is a list, a number is due"),
    ({"high": 10**400}, DEFAULT, ("high",), "high is too large: beyond 2**53"),
    (
        {"high": 2},
        DEFAULT,
        ("high",),
        "high 2 is impossible for this knob: it must be at most 0.99",
    ),
    (
        {"start": 0.9},
        DEFAULT,
        ("start",),
        "start 0.9 lies outside 0..0.7\nwiden the range, or move the value into it",
    ),
    (
        {"start": 1e-9, "low": 0, "scale": "log+0"},
        DECAY,
        ("start",),
        "start 1e-09 lies between 0 and the smallest value 1e-07 of 0..0.1",
    ),
    (
        {"start": [0.1, 0.2]},
        DEFAULT,
        ("start",),
        "start has 2 numbers, this knob has one number\n"
        "give a single number, it serves every strength",
    ),
    (
        {"start": [0.1]},
        Float(0, 1, size=2),
        ("start",),
        "start has 1 numbers, this knob has 2 numbers",
    ),
    ({"start": "0.1"}, DEFAULT, ("start",), "start '0.1' is text, a number is due"),
    ({"start": True}, DEFAULT, ("start",), "start true is a boolean, a number is due"),
    ({"start": 2.5}, Int(1, 4), ("start",), "start 2.5 is not a whole number"),
    ({"start": 7}, Int(1, 4), ("start",), "start 7 lies outside 1..4"),
    (
        {"start": "c"},
        Choice(("a", "b")),
        ("start",),
        "start 'c' is not among the options 'a', 'b'\nadd it to the options, or use one of them",
    ),
    (
        {"scale": "lgo"},
        DEFAULT,
        ("scale",),
        "unknown scale 'lgo', did you mean 'log'?\nknown: linear, log, logit, log+0, int, int log",
    ),
    (
        {"scale": "categorical"},
        DEFAULT,
        ("scale",),
        "unknown scale 'categorical'\n"
        "known: linear, log, logit, log+0, int, int log; for a list of values write options:",
    ),
    ({"scale": ["log"]}, DEFAULT, ("scale",), "unknown scale \"['log']\", did you mean 'log'?"),
    (
        {"scale": "logit"},
        DEFAULT,
        ("low",),
        "low 0 with scale logit: a logit exists strictly between 0 and 1 only\n"
        "use scale: linear, or ends such as low: 0.01, high: 0.99",
    ),
    ({"low": 0.1, "high": 1, "scale": "logit"}, None, ("high",), "high 1 with scale logit:"),
    (
        {"low": -1, "scale": "log+0"},
        DECAY,
        ("low",),
        "low -1 with scale log+0: the logarithm of a negative number does not exist\n"
        "use low: 0, or a small low such as 1e-6; zero is always part of log+0",
    ),
    (
        {"low": 0, "high": 9, "scale": "int log"},
        None,
        ("low",),
        "low 0 with scale int log: the least possible is 1\nuse scale: int, or low: 1",
    ),
    (
        {"low": 1, "high": 1 + 1e-12},
        None,
        ("high",),
        "low 1 and high 1 are too close together for scale linear\n"
        "choose ends that double precision can tell apart",
    ),
    (
        {"low": 1e-308, "high": 1e300, "scale": "log"},
        None,
        ("high",),
        "low 1e-308 and high 1e+300 are",
    ),
    ({"low": -1.7e308, "high": 1.7e308}, None, ("high",), "low -1.7e+308 and high 1.7e+308 are"),
    (
        {"lwo": 1},
        DEFAULT,
        ("lwo",),
        "unknown key 'lwo', did you mean 'low'?\n"
        "known: low, high, scale, start, size, off, schedule, when, options",
    ),
    ({1: 2}, DEFAULT, ("1",), "unknown key '1'"),
    (
        {"options": []},
        None,
        ("options",),
        "options is empty: a choice needs at least one\nfor example options: [sgd, adamw]",
    ),
    ({"options": "ab"}, None, ("options",), "options 'ab' is not a list"),
    ({"options": ["a", "b", "a"]}, None, ("options",), "option 'a' is there twice"),
    ({"options": [1, 1.0]}, None, ("options",), "option 1 is there twice"),
    ({"options": [[1]]}, None, ("options",), "option [1] is not a plain value"),
    ({"options": [math.nan]}, None, ("options",), "options is nan: only finite numbers"),
    (
        {"options": [1], "low": 0},
        None,
        ("low",),
        "low does not go with options\na knob has either a range (low, high, scale) or options",
    ),
    (
        {"size": 3},
        Float(0, 1, size=2),
        ("size",),
        "size 3: knob has 2 strengths\nleave size out",
    ),
    ({"size": 0, "low": 0, "high": 1}, None, ("size",), "size 0 lies outside 1..1000000"),
    ({"size": -1, "low": 0, "high": 1}, None, ("size",), "size -1 lies outside 1..1000000"),
    ({"size": 10**9, "low": 0, "high": 1}, None, ("size",), "size 1000000000 lies outside"),
    ({"size": 1.5, "low": 0, "high": 1}, None, ("size",), "size 1.5 is not a whole number"),
    ({"size": 2}, Int(1, 4), ("size",), "size does not go with whole numbers"),
    ({"off": "no"}, DEFAULT, ("off",), "off 'no' is text, a number is due"),
    ({"off": 3}, DEFAULT, ("off",), "off 3 is impossible for this knob: it must be at most 0.99"),
    ({"when": "sgd"}, DEFAULT, ("when",), "when 'sgd' is not a mapping"),
    ({"when": {"a": []}}, DEFAULT, ("when", "a"), "options is empty"),
    (
        {"schedule": {"kind": "linear", "knots": 1}},
        DEFAULT,
        ("schedule", "knots"),
        "schedule knots 1 lies outside 2..64\nfor example knots: 3",
    ),
    (
        {"schedule": {"kind": "steps", "knots": 2.5}},
        DEFAULT,
        ("schedule", "knots"),
        "knots 2.5 is not",
    ),
    (
        {"schedule": {"kind": "cyclical", "cycles": 0}},
        DEFAULT,
        ("schedule", "cycles"),
        "schedule cycles 0",
    ),
    (
        {"schedule": {"kind": "cyclical", "knots": 3}},
        DEFAULT,
        ("schedule", "knots"),
        "knots 3 with kind",
    ),
    (
        {"schedule": {"kind": "cosine_power", "power": 0}},
        DEFAULT,
        ("schedule", "power"),
        "power 0 lies",
    ),
    (
        {"schedule": "cosin"},
        DEFAULT,
        ("schedule", "kind"),
        "unknown schedule kind 'cosin', did you mean 'cosine'?\n"
        "known: constant, steps, stages, linear, ramp, exponential, cosine, cosine_power, cyclical,"
        " cubic",
    ),
    ({"schedule": {"knots": 3}}, DEFAULT, ("schedule",), "schedule without a kind"),
    *(
        ({"schedule": given}, DEFAULT, ("schedule", key), text)
        for given, key, text in (
            (
                {"kind": "cyclical", "wave": "sin"},
                "wave",
                "unknown wave 'sin', did you mean 'sine'?",
            ),
            ({"kind": "cubic", "monotone": "up"}, "monotone", "unknown way 'up'\nknown: rising"),
            ({"kind": "cyclical", "monotone": "rising"}, "monotone", "monotone: rising with kind"),
            ({"kind": "ramp", "knots": 3}, "knots", "knots 3 with kind ramp: it has exactly 2"),
            ({"kind": "ramp", "at": [0.2, 0.4]}, "at", "at has 2 places, a ramp one"),
            ({"kind": "ramp", "at": 0}, "at", "schedule at 0: places rise from above 0 to 1"),
            ({"kind": "ramp", "at": "soon"}, "at", "at 'soon' is text, a number is due"),
            ({"kind": "stages", "at": [0.5, 0.2]}, "at", "schedule at [0.5, 0.2]: places rise"),
            ({"kind": "stages", "at": [0.5, 1]}, "at", "at has 2 places for 2 stages"),
            ({"kind": "stages", "at": [0.5], "knots": 3}, "at", "at has 1 places for 3 stages"),
            ({"kind": "linear", "at": 0.5}, "at", "at with kind linear\nit goes with kind ramp"),
        )
    ),
    (
        {"schedule": {"kind": "linear", "knot": 3}},
        DEFAULT,
        ("schedule", "knot"),
        "unknown key 'knot'",
    ),
    ({"schedule": True}, DEFAULT, ("schedule",), "schedule true is neither a kind nor a mapping"),
    (
        0.3,
        DEFAULT,
        (),
        "knob: 0.3 is not a range such as {low: 0, high: 1}\n"
        "to hold it constant put it under fixed:, as knob: 0.3",
    ),
    ([1, 2], DEFAULT, (), "knob: [1, 2] is not a range such as {low: 0, high: 1}"),
    (
        {"start": 1},
        None,
        (),
        "knob has no low and no high: nothing says what it may be\ngive low and high, or options",
    ),
    ({"low": 1}, None, (), "knob has no high: nothing says what it may be"),
    (None, None, (), "knob has no low and no high"),
]


@pytest.mark.parametrize(("data", "base", "path", "text"), GOLDEN, ids=lambda v: str(v)[:40])
def test_a_bad_range_is_explained(
    data: object, base: Domain | None, path: tuple[str, ...], text: str
) -> None:
    with pytest.raises(HpoError) as caught:
        parse("knob", data, base)
    assert str(caught.value).startswith(text)
    assert caught.value.path == ("knob", *path)
    assert caught.value.code


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["low", "high", "scale", "start", "size", "off", "schedule", "when", "options"]
)


@FIXED
@given(st.dictionaries(KEYS, JUNK, max_size=5), st.sampled_from([None, DEFAULT, Int(1, 9)]))
def test_nonsense_gives_a_domain_or_an_error_that_can_be_printed(
    data: dict[str, object], base: Domain | None
) -> None:
    try:
        domain = parse("knob", data, base)
    except HpoError as error:
        assert str(error)
        assert error.path[0] == "knob"
    else:
        assert domain.contains(domain.start_value())
