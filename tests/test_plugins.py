"""Files are plug-ins, misspelt names get a suggestion, errors survive a worker process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import search_spaces
from search_spaces import HpoError, plugins

PACKAGE = "search_spaces.regularizers"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "plugin_zoo_samplers"
    (folder / "nested").mkdir(parents=True)
    (folder / "nested" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "good.py").write_text("SAMPLER = 1\n")
    (folder / "explosive.py").write_text("raise RuntimeError('this file was run')\n")
    (folder / "_private.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugin_zoo_samplers", raising=False)
    return "plugin_zoo_samplers"


def test_names_are_the_public_files_and_listing_runs_none_of_them(package: str) -> None:
    assert plugins.names(package) == ["explosive", "good"]


def test_load_gives_the_attribute(package: str) -> None:
    assert plugins.load(package, "good", "SAMPLER") == 1


def test_a_file_without_the_attribute_is_explained(package: str) -> None:
    with pytest.raises(HpoError, match=r"good\.py has no TUNER"):
        plugins.load(package, "good", "TUNER")


def test_an_unknown_name_is_corrected() -> None:
    with pytest.raises(HpoError) as caught:
        plugins.load(PACKAGE, "dropuot", "REGULARIZER")
    assert str(caught.value).splitlines()[0] == (
        "unknown regularizer 'dropuot', did you mean 'dropout'?"
    )
    assert caught.value.code == "unknown-regularizer"
    assert (caught.value.found, caught.value.suggest) == ("dropuot", "dropout")


@pytest.mark.parametrize("name", ["_private", "nested", "../evil", "", "good.x"])
def test_only_listed_names_are_imported(package: str, name: str) -> None:
    with pytest.raises(HpoError, match="unknown plugin_zoo_sampler"):
        plugins.load(package, name, "SAMPLER")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("DropOut", "dropout"), ("weight-decay", "weight_decay"), ("zzz", None), ("", None)],
)
def test_closest(word: str, expected: str | None) -> None:
    assert plugins.closest(word, ["dropout", "weight_decay"]) == expected


def test_an_error_survives_pickling_with_all_it_knows() -> None:
    error = HpoError("m", hint="h", code="c", found=1, suggest="s", path=("b",)).under("a")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "m\nh"
    assert (copy.code, copy.found, copy.suggest, copy.path) == ("c", 1, "s", ("a", "b"))


def test_the_package_offers_what_it_lists() -> None:
    for name in search_spaces.__all__:
        assert getattr(search_spaces, name) is not None
    with pytest.raises(AttributeError):
        _ = search_spaces.nothing_of_the_kind


def test_nothing_heavy_is_imported_with_the_package() -> None:
    code = (
        "import sys; from search_spaces import *; from search_spaces import plugins, presets\n"
        "[plugins.load('search_spaces.regularizers', n, 'REGULARIZER')"
        " for n in plugins.names('search_spaces.regularizers')]\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'pandas', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(search_spaces.__file__).parents[1],
    )
    assert done.stdout.strip() == "[]"
