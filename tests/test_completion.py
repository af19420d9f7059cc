"""Completion in bash, zsh and fish, as Click asks for it: by running the command itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import OBJECTIVES, hpo, study_file

from hpo.cli._main import COMMANDS
from hpo.samplers import names as samplers
from search_spaces import presets

HPO = Path(sys.executable).with_name("hpo")


def offered(line: str, folder: Path, shell: str = "bash") -> list[str]:
    """What is offered for the last word of a command line."""
    words = line.split(" ")
    asked = {"bash": ("COMP_WORDS", "COMP_CWORD"), "zsh": ("COMP_WORDS", "COMP_CWORD")}
    last = str(len(words) - 1)
    if shell == "fish":
        environment = {"COMP_WORDS": line, "COMP_CWORD": words[-1]}
    else:
        environment = dict(zip(asked[shell], (line, last), strict=True))
    ended = subprocess.run(
        [HPO],
        env={**os.environ, **environment, "_HPO_COMPLETE": f"{shell}_complete"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    if shell == "zsh":  # three lines each: type, word, help
        return lines[1::3]
    return [entry.split(",", 1)[1].split("\t")[0] for entry in lines if entry]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two studies."""
    folder = tmp_path_factory.mktemp("completion")
    for name in ("first-study", "second"):
        file = study_file(folder, "budget: {trials: 1}\n", name=name)
        assert hpo("run", file, "--mlruns", folder / "mlruns", "-q").code == 0
    return folder


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_options_are_offered(shell: str, folder: Path) -> None:
    assert offered("hpo ", folder, shell) == list(COMMANDS)
    assert offered("hpo sch", folder, shell) == ["schedule"]
    assert {"--trials", "--seed", "--resume"} <= set(offered("hpo run --", folder, shell))


def test_names_of_studies_are_offered(folder: Path) -> None:
    for line in ("hpo show ", "hpo schedule ", "hpo stop ", "hpo run --resume --name "):
        assert sorted(offered(line, folder)) == ["first-study", "second"], line
    assert offered("hpo show fi", folder) == ["first-study"]
    assert offered(f"hpo show --mlruns {folder / 'nothing'} ", folder) == []
    assert "second" in offered(f"hpo show --mlruns {folder / 'mlruns'} ", folder.parent)


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("hpo run --sampler ", set(samplers())),
        ("hpo check --sampler t", {"tpe"}),
        ("hpo run --objective ", {"digits", "fashion_mnist", "ridge", "table"}),
        ("hpo run --space ", set(presets.names())),
        ("hpo run --prune ", {"none", "median"}),
        ("hpo run --engine ", {"optuna"}),
        ("hpo list ", {"studies", "samplers", "regularizers"}),
        ("hpo init --kind ", {"task", "function", "bilevel"}),
    ],
)
def test_values_are_offered(line: str, some: set[str], folder: Path) -> None:
    assert some <= set(offered(line, folder))


def test_a_folder_that_cannot_be_read_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file")
    assert offered("hpo show ", tmp_path) == []
    (tmp_path / "mlruns").unlink()
    study = tmp_path / "mlruns" / "studies" / "broken"
    study.mkdir(parents=True)
    (study / "spec.yaml").write_text(f"objective: {OBJECTIVES}\nnonsense: [")
    assert offered("hpo show ", tmp_path) == ["broken"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_to_source_is_printed_and_is_one(shell: str, folder: Path) -> None:
    ended = subprocess.run(
        [HPO],
        env={**os.environ, "_HPO_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"_HPO_COMPLETE={shell}_complete" in ended.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=ended.stdout, text=True, check=False)
        assert checked.returncode == 0
