"""Schedule files: read back exactly, exported faithfully, harmless whatever they hold."""

import ast
import csv
import io
import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo import schedulefile, straight
from hpo.errors import HpoError
from search_spaces._form import CURVES, SWINGING
from search_spaces.domains import Choice, Domain, Float, Int, Value, units
from search_spaces.schedule import Schedule, Track
from search_spaces.space import SearchSpace

At = Callable[[float], dict[str, Value]]

SPACE = SearchSpace(
    {
        "linear": Float(0.0, 0.7),
        "log": Float(1e-6, 1.0, "log"),
        "logit": Float(0.01, 0.99, "logit"),
        "zero": Float(0.0, 1.0, "log+0"),
        "vector": Float(1e-3, 1.0, "log", size=3),
        "whole": Int(1, 40),
        "choice": Choice(("relu", "gelu", None, True)),
    }
)
KNOTS = (0.0, 0.3, 0.3001, 0.7, 1.0)
FORMS = CURVES


def value(domain: Domain, place: float) -> Value:
    if isinstance(domain, Float) and domain.size:
        return tuple(domain.from_unit((place + n / 5) % 1) for n in range(domain.size))
    return domain.from_unit(place)


def schedule(form: str) -> Schedule:
    """Every kind of knob under one form of curve, with ups, downs and a near jump."""
    tracks = {}
    for shift, (name, domain) in enumerate(SPACE.items()):
        kind = "steps" if isinstance(domain, Choice) and form != "constant" else form
        places = {"constant": (0.0,), **dict.fromkeys(SWINGING, (0.0, 1.0))}.get(kind, KNOTS)
        options = {
            "cosine_power": {"power": 10.0},
            "cyclical": {"cycles": 7},
            "sine": {"cycles": 7},
        }.get(kind, {})
        walk = [(0.03 + 0.37 * (n + shift) * (n + 1)) % 1 for n in range(len(places))]
        tracks[name] = Track(kind, places, tuple(value(domain, at) for at in walk), options)
    return Schedule(SPACE, tracks)


def exported(text: str) -> At:
    """The function `at` of an exported module, which may use nothing but the standard library."""
    tree = ast.parse(text)
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= {"bisect"}
    module: dict[str, Any] = {}
    exec(compile(tree, "schedule.py", "exec"), module)
    at: At = module["at"]
    return at


def deviation(domain: Domain, one: Value, other: Value) -> float:
    """How far two values are apart, as a share of the range."""
    if isinstance(domain, Choice | Int):
        return 0.0 if one == other and type(one) is type(other) else 1.0
    pairs = zip(units(domain, one), units(domain, other), strict=True)
    return max(abs(a - b) for a, b in pairs)


@pytest.mark.parametrize("form", FORMS)
def test_the_exported_function_follows_the_schedule(form: str) -> None:
    """Straight lines between the points of the module, curves in unit coordinates in the schedule:
    they part by no more than a thousandth of a range, and at knots by nothing at all."""
    ours = schedule(form)
    at = exported(schedulefile.to_python(ours))
    for place in ours.knots():
        assert at(place) == ours.at(place)
    for index in range(301):
        place = index / 300
        there = at(place)
        for name, here in ours.at(place).items():
            off = deviation(SPACE[name], here, there[name])
            if off > schedulefile.TOLERANCE + 1e-9:
                # Beside a jump, or where log+0 leaves zero, which its scale counts as a jump.
                beside = [ours.at(min(max(place + d, 0.0), 1.0))[name] for d in (-2e-6, 2e-6)]
                assert there[name] in beside or name == "zero", (name, place, here, there[name])
    assert list(at(0.5)) == list(SPACE) and at(-1.0) == at(0.0) and at(2.0) == at(1.0)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_of_reasonable_size(form: str) -> None:
    rows = straight.points(schedule(form), schedulefile.TOLERANCE)
    assert len(rows) < 3000
    places = [place for place, _ in rows]
    assert places == sorted(set(places)) and places[0] == 0.0
    assert len(rows) == 1 if form == "constant" else places[-1] == 1.0


def test_a_jump_is_met_exactly() -> None:
    space = SearchSpace({"a": Float(0.0, 1.0), "c": Choice(("x", "y"))})
    tracks = {"a": Track("steps", (0.0, 0.5), (0.2, 0.9)), "c": Track("steps", (0.0, 0.25), "xy")}
    at = exported(schedulefile.to_python(Schedule(space, {**tracks})))  # type: ignore[dict-item]
    assert at(0.25) == {"a": 0.2, "c": "y"} and at(math.nextafter(0.25, 0)) == {"a": 0.2, "c": "x"}
    assert at(0.4999999)["a"] == 0.2 and at(0.5)["a"] == 0.9


@pytest.mark.parametrize("form", FORMS)
def test_json_is_read_back_exactly(form: str, tmp_path: Path) -> None:
    ours = schedule(form)
    schedulefile.write(ours, tmp_path / "schedule.json")
    assert schedulefile.read(tmp_path / "schedule.json") == ours
    assert json.loads((tmp_path / "schedule.json").read_text())["format"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_csv_holds_the_schedule_at_hundredths(form: str) -> None:
    ours = schedule(form)
    rows = list(csv.DictReader(io.StringIO(schedulefile.to_csv(ours))))
    assert len(rows) == 101 and [row["progress"] for row in rows[:2]] == ["0.00", "0.01"]
    for row in rows[:: 1 if form == "steps" else 10]:
        here = ours.at(float(row["progress"]))
        assert float(row["log"]) == here["log"] and int(row["whole"]) == here["whole"]
        assert row["choice"] == ("" if here["choice"] is None else str(here["choice"]))
        assert isinstance(here["vector"], tuple)
        assert tuple(float(row[f"vector[{n}]"]) for n in range(3)) == here["vector"]


HOSTILE = (
    '"""\nimport os; os.abort()\n"""',
    "'); __import__('os').abort() #",
    "{__import__('os').abort()}",
    "\\",
    "%s%n{0}{progress}",
    "\x00\x1b[31m\u2028\ud800",
    "=cmd|' /C calc'!A0",
    'a,b\n"c"',
)


def test_hostile_choices_are_text_in_every_export(tmp_path: Path) -> None:
    space = SearchSpace({"a": Choice(HOSTILE), "import_os": Float(0.0, 1.0)})
    places = tuple(n / len(HOSTILE) for n in range(len(HOSTILE)))
    ours = Schedule(
        space,
        {
            "a": Track("steps", places, HOSTILE),
            "import_os": Track("linear", (0.0, 1.0), (0.0, 1.0)),
        },
    )
    at = exported(schedulefile.to_python(ours))
    assert [at(place)["a"] for place in places] == list(HOSTILE)
    told = list(csv.reader(io.StringIO(schedulefile.to_csv(ours))))
    assert len(told) == 102 and {row[1] for row in told[1:]} == set(HOSTILE)
    harmless = Schedule(space, {**ours.tracks, "a": Track("constant", (0.0,), (HOSTILE[0],))})
    for ending in ("json", "csv", "py"):
        schedulefile.write(harmless, tmp_path / f"out.{ending}")
    assert runpy.run_path(str(tmp_path / "out.py"))["at"](0.5)["a"] == HOSTILE[0]


@pytest.mark.parametrize("name", ["a b", "a()", "a\n", "a;b", "'a'", "", "\u202e", "a" * 101, "1a"])
def test_a_hostile_name_of_a_knob_never_becomes_one(name: str, tmp_path: Path) -> None:
    data = schedule("linear").to_json()
    data["space"][name] = data["space"]["linear"]
    data["tracks"][name] = data["tracks"]["linear"]
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(data))
    with pytest.raises(HpoError, match="cannot be the name of a knob") as caught:
        schedulefile.read(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("null", "bad.json: "),
        ("[]", "bad.json: "),
        ("{}", "bad.json: "),
        ('{"format": 99, "kind": "hpo-schedule"}', "bad.json: "),
        ('{"format": 1, "kind": "recipe"}', "bad.json: "),
        ('{"format": 1, "kind": "hpo-schedule", "space": {}, "tracks": 3}', "bad.json: "),
    ],
)
def test_nonsense_is_refused_with_the_name_of_the_file(
    text: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(HpoError) as caught:
        schedulefile.read(file)
    assert said in str(caught.value) and len(str(caught.value)) < 1000


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name, said in (
        ("no.json", "No such file"),
        (".", "Is a directory"),
        ("bytes.json", "JSON"),
    ):
        with pytest.raises(HpoError, match=said):
            schedulefile.read(tmp_path / name)
    with pytest.raises(HpoError, match="larger than"):
        huge = tmp_path / "huge.json"
        with huge.open("wb") as file:
            file.truncate(schedulefile.LARGEST_FILE + 1)
        schedulefile.read(huge)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
DATA = schedule("linear").to_json()
PATHS = [("space", "log", key) for key in DATA["space"]["log"]]
PATHS += [("tracks", "log", key) for key in DATA["tracks"]["log"]]
PATHS += [("format",), ("kind",), ("space",), ("tracks",), ("space", "log"), ("tracks", "log")]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PATHS),
    LEAVES | st.lists(LEAVES, max_size=4) | st.dictionaries(st.text(), LEAVES),
)
def test_any_change_to_a_file_is_a_schedule_or_an_hpo_error(
    path: tuple[str, ...], junk: object
) -> None:
    data = json.loads(json.dumps(DATA))
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = junk
    try:
        read = Schedule.from_json(data)
    except HpoError as error:
        assert str(error)
    else:
        assert set(read.at(0.5)) == set(read.space)


@pytest.mark.parametrize("name", ["out", "out.txt", "out.JSON", ".py"])
def test_an_unknown_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(HpoError, match=r"end the name in \.json, \.csv or \.py"):
        schedulefile.write(schedule("constant"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(HpoError, match="no such folder"):
        schedulefile.write(schedule("constant"), tmp_path / "no" / "out.py")
    (tmp_path / "out.py").mkdir()
    with pytest.raises(HpoError, match=r"out\.py"):
        schedulefile.write(schedule("constant"), tmp_path / "out.py")


def test_knobs_that_their_condition_switches_off_are_found() -> None:
    """Also one that depends on a knob that is off itself, and in any order."""
    space = SearchSpace(
        {
            "deep": Float(0, 1, when={"nested": (True,)}),
            "nested": Choice((True, False), when={"kind": ("sgd",)}),
            "kind": Choice(("adam", "sgd")),
            "momentum": Float(0.5, 0.9, when={"kind": ("sgd",)}),
            "free": Float(0, 1),
        }
    )
    assert schedulefile.switched_off(space.schedule({})) == ["deep", "nested", "momentum"]
    on = space.schedule({"kind": "sgd", "nested": False})
    assert schedulefile.switched_off(on) == ["deep"]
    assert schedulefile.switched_off(space.schedule({"kind": "sgd"})) == []
