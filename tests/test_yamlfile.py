"""Study files as plain data: what is read, where it stands, and what is refused.

A study file comes from anywhere. Reading it builds no objects, ends soon, and whatever is wrong
with it is told with line and column.
"""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.document import Place
from hpo.errors import HpoError, SpecError, render
from hpo.yamlfile import LARGEST_FILE, dump, load, scalar


def read(text: str | bytes) -> dict[str, Any]:
    return load("study.yaml", text).data


def refused(text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        load("study.yaml", text)
    return render(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-6", 1e-6),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("0x1f", 31),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31 10:00:00", "2026-01-31 10:00:00"),
        ("'1e-6'", "1e-6"),
        ("[1, [2, a]]", [1, [2, "a"]]),
        ("{low: 0}", {"low": 0}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("läßt 丠", "läßt 丠"),
    ],
)
def test_values_are_what_a_reader_expects(written: str, meant: object) -> None:
    found = read(f"key: {written}\n")["key"]
    assert found == meant and type(found) is type(meant)


def test_every_key_and_value_has_its_place() -> None:
    found = load("f", "a: 1\nspace:\n  x: {low: 0,\n      high: 1}\nlist:\n  - b\n  - {c: d}\n")
    assert found.places[("a",)] == Place((1, 1), (1, 4))
    assert found.places[("space", "x")] == Place((3, 3), (3, 6))
    assert found.places[("space", "x", "high")] == Place((4, 7), (4, 13))
    assert found.places[("list", 1, "c")].key == (7, 6)


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: 1\r\nbudget: 2\r\n", (2, 1)), ("\ufeffa: 1\nbudget: 2\n", (2, 1)), ("budget: 2", (1, 1))],
    ids=["CRLF", "BOM", "no end of line"],
)
def test_places_do_not_depend_on_how_the_file_was_saved(text: str, place: tuple[int, int]) -> None:
    found = load("f", text.encode())
    assert found.places[("budget",)].key == place
    assert found.data["budget"] == 2


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "--- {}\n...\n"])
def test_an_empty_file_holds_nothing(text: str) -> None:
    assert read(text) == {}


def test_an_anchor_repeats_a_value_and_a_merge_keeps_its_place() -> None:
    found = load("f", "a: &one {low: 0, high: 1}\nb: *one\nc:\n  <<: *one\n  high: 2\n")
    assert found.data["b"] == {"low": 0, "high": 1}
    assert found.data["c"] == {"low": 0, "high": 2}
    assert found.places[("c", "low")].key[0] in {3, 4}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "seed: 1\nbudget:\n  trials: 1\n  trials: 2\n",
            "study.yaml:4:3: key 'trials' is given twice\n    4 |   trials: 2\n      |   ^^^^^^",
        ),
        ("1: a\n'1': b\n", "study.yaml:2:1: key '1' is given twice"),
        ("a: 1\n\tb: 2\n", "study.yaml:2:1: not YAML: found character '\\t'"),
        ("a:\n\tb: 2\n", "indent with spaces"),
        ("a: [1, 2\nb: 3\n", "study.yaml:2:2: not YAML: expected ',' or ']', but got ':'"),
        ("a: [1, 2\nb: 3\n", "which begins at line 1"),
        ("a: 'open\n", "not YAML"),
        ("a: b: c\n", "study.yaml:1:5: not YAML: mapping values are not allowed here"),
        ("a: *nobody\n", "study.yaml:1:4: not YAML: found undefined alias 'nobody'"),
        ("a: 1\n---\nb: 2\n", "study.yaml:2:1: a second document begins here"),
        ("- a\n", "study.yaml:1:1: a study file holds keys and values, not a list"),
        ("word\n", "not text"),
        ("3\n", "not a number"),
        ("null: 1\n", "study.yaml:1:1: this key is not text"),
        ("? [a, b]\n: 1\n", "study.yaml:1:3: this key is not text"),
        ("a: x\x07y\n", "study.yaml:1:5: not YAML: the character U+0007 has no place here"),
        (b"a: \xff\n", "study.yaml: is not UTF-8 text (line 1)\nsave it as UTF-8"),
        ("a: 1\n".encode("utf-16"), "is not UTF-8 text"),
        ("a: !!python/object/apply:os.system [id]\n", "tag !!python/object/apply:os.system is not"),
        ("a: !!python/name:os.system x\n", "study.yaml:1:4: tag !!python/name:os.system is not"),
        ("a: !mine {b: 1}\n", "tag !mine is not allowed"),
        ("a: !!set {b}\n", "not allowed in a study file"),
        ("a: !!binary aGk=\n", "not allowed in a study file"),
        ("%YAML 2.0\n---\na: 1\n", "not YAML"),
        ("a: 1" + "0" * 5000 + "\n", "not YAML: Exceeds the limit"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60 + "\n", "nested too deeply"),
        ("a: " + "[" * 3000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, error: str) -> None:
    told = refused(text)
    assert error in told
    assert "Traceback" not in told and all(len(line) < 200 for line in told.splitlines())


def test_a_long_line_is_shown_around_the_mistake() -> None:
    told = refused("a: [" + "1, " * 300 + "]\nb: [" + "2, " * 300 + "}\n")
    line, carets = told.splitlines()[1:3]
    assert len(line) < 120 and line[carets.index("^")] == "}"


def bomb(levels: int = 12) -> str:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [bomb(), "a: &a [*a]\n", "a: &a {b: *a}\n", "x" * (LARGEST_FILE + 1)],
    ids=["many levels of anchors", "a list in itself", "a mapping in itself", "a huge file"],
)
def test_a_hostile_file_ends_soon(text: str) -> None:
    begun = time.process_time()
    try:
        assert read(text) is not None
    except HpoError as error:
        assert "study.yaml" in render(error)
    assert time.process_time() - begun < 3


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("a: 1")
    for name, said in (("no.yaml", "here: other.yaml"), (".", "is a folder, not a study file")):
        with pytest.raises(SpecError) as caught:
            load(tmp_path / name)
        assert said in str(caught.value)
    with pytest.raises(SpecError, match="hpo init"):
        load(tmp_path / "empty" / "no.yaml")
    with pytest.raises(SpecError, match="larger than"):
        load(Path("/dev/zero"))
    with pytest.raises(SpecError):
        load(Path("a\0b"))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20).filter(lambda s: s.isprintable()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc._-", min_size=1, max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abcdef.-_", min_size=1, max_size=8), PLAIN, max_size=5))
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    assert read(dump(data)) == data


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60)
    | st.text("ab:-[]{}#&*!|>'\"%@,\n\t ", max_size=40)
    | st.binary(max_size=40)
)
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    try:
        assert isinstance(read(text), dict)
    except SpecError as error:
        assert render(error).startswith("study.yaml")
    if isinstance(text, str):
        scalar(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("8", 8),
        ("1e-3", 1e-3),
        ("true", True),
        ("no", "no"),
        ("", None),
        ("20m", "20m"),
        ("[1, 2]", [1, 2]),
        ("{low: 0, high: 1}", {"low": 0, "high": 1}),
        ("2026-01-31", "2026-01-31"),
        ("{low: 0, low: 1}", "{low: 0, low: 1}"),
        ("a: b: c", "a: b: c"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("relu", "relu"),
    ],
)
def test_the_value_of_an_option_is_read_like_one_in_a_file(text: str, meant: object) -> None:
    assert scalar(text) == meant
