"""What is installed is the product, whole and nothing else, with versions that were tested."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("hpo", "objectives", "search_spaces")
NOT_OURS = {
    ".git", ".venv", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__",
    "build", "dist", "results",
}  # fmt: skip


def _requirements() -> list[Requirement]:
    extras = [text for given in PROJECT["optional-dependencies"].values() for text in given]
    found = [Requirement(text) for text in (*PROJECT["dependencies"], *extras)]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def _pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name.lower(): Version(version) for name, version in pairs}


def _files() -> Iterator[Path]:
    """The files of the project, without what tools and runs leave behind."""
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [n for n in folders if n not in NOT_OURS and not n.endswith(".egg-info")]
        if here == ROOT / "mlruns":
            folders.clear()
            names = ["README.md"]
        yield from (here / name for name in names)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, since building leaves files in it."""
    copy = tmp_path_factory.mktemp("source")
    for file in _files():
        target = copy / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", "dist", "."], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_every_dependency_has_a_tested_version_within_its_range() -> None:
    pins = _pins()
    for requirement in _requirements():
        version = pins[requirement.name.lower()]
        assert requirement.specifier.contains(version), requirement


def test_every_tested_version_is_of_a_dependency_or_of_one_of_its_own() -> None:
    of_dependencies = {"sqlalchemy"}  # MLflow's database: its schema decides what we can write
    wanted = {requirement.name.lower() for requirement in _requirements()}
    assert set(_pins()) == wanted | of_dependencies


def test_every_range_begins_somewhere() -> None:
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert any(part.operator == ">=" for part in requirement.specifier), requirement


def test_every_package_that_is_imported_is_a_dependency() -> None:
    names = {
        "ruamel.yaml": "ruamel",
        "pillow": "PIL",
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
        "SQLAlchemy": "sqlalchemy",
    }
    known = {names.get(r.name, r.name.replace("-", "_")) for r in _requirements()}
    known |= {*PACKAGES, *sys.stdlib_module_names}
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        assert not _imported(file) - known, file


def _imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {*PACKAGES, "hpo_schedules"}
    inside = {name for name in names if name.startswith(PACKAGES)} - {n for n in names if "-" in n}
    on_disk = {
        file.relative_to(ROOT).as_posix()
        for file in _files()
        if file.relative_to(ROOT).parts[0] in PACKAGES
    }
    assert inside == on_disk
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert "hpo/specs/quickstart.yaml" in inside and "hpo/templates/task.py.txt" in inside
    assert "search_spaces/presets/regularization.yaml" in inside


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {n.split("/")[0] for n in archive.namelist() if ".dist-info/" in n}
        about = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert about["Name"] == "hpo-schedules"
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert str(about.get_payload()).startswith("# hpo\n")
    assert "hpo = hpo.cli:main" in scripts


def test_the_source_distribution_holds_no_tests_and_no_runs(source: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta as b; b.build_sdist('dist')"],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (built,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.split("/")[0] for name in names}
    assert not {"tests", "mlruns", "benchmarks", ".ci"} & tops
    assert {*PACKAGES, "LICENSE", "README.md", "pyproject.toml"} <= tops
    assert "hpo/specs/quickstart.yaml" in names
    assert "search_spaces/presets/regularization.yaml" in names


@pytest.mark.slow
def test_the_installed_command_finds_its_study_and_its_templates(
    wheel: Path, tmp_path: Path
) -> None:
    place = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(place), str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(place)}

    def hpo(*arguments: str) -> str:
        return subprocess.run(
            [str(place / "bin" / "hpo"), *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    version = wheel.name.split("-")[1]
    assert hpo("--version") == f"hpo {version}\n"
    assert "wrote mine/study.yaml" in hpo("init", "mine")
    assert "objective digits" in hpo("check", "--no-probe")


def test_no_file_names_the_machine_it_was_written_on() -> None:
    places = ["/ro" + "ot/", "/op" + "t/pypi", "/wo" + "rk/", "/tmp/" + "venv", "/tmp/" + "work"]
    hosts = ["py" + "pi.org", "python" + "hosted", "deb." + "debian", "np" + "mjs.org"]
    pattern = re.compile("|".join(map(re.escape, places + hosts)))
    for file in _files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert found is None, f"{file.relative_to(ROOT)}: {found and found.group()}"


def test_the_wheel_target_and_the_ci_script_are_there() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    for target in ("quickstart", "test", "data", "test-fast", "lint", "bench", "clean"):
        subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, text=True
        )
