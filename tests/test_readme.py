"""Everything the README shows is run, and everything the product has is in the README.

Console blocks run in order in one folder; numbers they print may differ from the page, words not.
The files it shows are put where it says and meet the conformance suites.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import built_in
import pytest
from ruamel.yaml import YAML
from shell import hpo

from hpo import engines, pruners, samplers
from hpo.cli import cli
from hpo.cli._main import COMMANDS
from hpo.errors import _EXIT_CODES
from hpo.spec import Budget, StudySpec
from objectives.training.options import Training
from search_spaces import plugins
from search_spaces._form import KINDS
from search_spaces._scales import FLOAT_SCALES
from search_spaces.errors import HpoError
from search_spaces.schedule import Schedule

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("hpo", "objectives", "search_spaces")
# A study prints the same lines when it is short.
SHORTENED = {
    "hpo run study.yaml": "hpo run study.yaml --trials 4 --steps 40",
}
SECONDS = 120.0


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, and the line of the README it begins at."""

    language: str
    text: str
    line: int

    @property
    def path(self) -> str:
        """The file a Python block is shown as: `# folder/file.py` in its first line."""
        found = re.match(r"# (\S+\.py)\n", self.text)
        return found.group(1) if found else ""

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of a console block, each with the lines it prints."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found


def _blocks() -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        yield Block(match.group(1), match.group(2), TEXT[: match.start()].count("\n") + 1)


BLOCKS = list(_blocks())
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
PLUGINS = [block for block in BLOCKS if block.path.startswith(PACKAGES)]
STUDIES = [block for block in BLOCKS if block.language == "yaml"]


def _of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


# -- running --------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {block.language for block in BLOCKS} == {"console", "json", "python", "sh", "yaml"}


@pytest.mark.slow
def test_the_console_says_what_the_page_shows(tmp_path: Path) -> None:
    folder = tmp_path
    for block in BLOCKS:
        if block.path and block not in PLUGINS:
            (folder / block.path).write_text(block.text)
        for command, shown in block.commands if block.language == "console" else []:
            if command.startswith("cd "):
                folder = folder / command[3:]
                continue
            code, printed = _typed(command, shown, folder)
            where = f"README.md, block at line {block.line}: {command}\n{printed}"
            assert _compared(printed.splitlines()) == _compared(shown), where
            expected = re.search(r"# exit (\d+)$", command)
            wanted = 130 if "^C" in shown else int(expected.group(1)) if expected else 0
            assert code == wanted, where


def _typed(command: str, shown: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a command; where the page shows ^C, it gets one."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}" if "^C" in shown else SHORTENED.get(command, command)],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    interrupt_at = shown[shown.index("^C") - 1] if "^C" in shown else None
    limit = threading.Timer(SECONDS, process.kill)
    limit.start()
    lines = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if interrupt_at is not None and _plain(line) == _plain(interrupt_at):
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    limit.cancel()
    return process.returncode, "".join(lines)


def _compared(lines: list[str]) -> list[str]:
    """What two transcripts must share: the words, not numbers, nor how often a line is repeated."""
    found: list[str] = []
    for line in lines:
        # A sign of life depends on the speed of the machine, what stops on the moment of ^C, and
        # what is noted on the way that the knobs took.
        if re.match(r"… +\d+ trials? ended|stopping: |\^C$|trial +\d+ +note: ", line):
            continue
        plain = _plain(line)
        if not found or plain != found[-1]:
            found.append(plain)
    return [line for line in found if line]


def _plain(line: str) -> str:
    """A line without numbers and spaces; which trial was pruned, or best, is a number too."""
    line = re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?%?", "0", line)
    line = line.replace("0m0s", "0s").replace("pruned", "done")
    line = re.sub(r": these are the start values.*| \(start values( reached)? 0\)", "", line)
    line = re.sub(r"(http://\S*?(runs=|/runs/))\S*", r"\1", line)
    return re.sub(r"\s+", " ", line).strip()


def _environment(**more: str) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("HPO", "MLFLOW"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_the_python_blocks_run_one_after_another(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("\n".join(block.text for block in _of("python") if not block.path))
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("block", STUDIES, ids=lambda block: f"line {block.line}")
def test_a_study_file_is_valid(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("curve.py").write_text(next(b.text for b in BLOCKS if b.path == "curve.py"))
    Path("study.yaml").write_text(block.text)
    ended = hpo("check", "study.yaml", "--no-probe")
    assert ended.code == 0, ended.both


def test_a_schedule_file_is_valid_and_every_key_of_it_is_needed() -> None:
    (block,) = _of("json")
    data = json.loads(block.text)
    assert Schedule.from_json(data).at(0.5).keys() == data["space"].keys()
    for key in data:
        with pytest.raises(HpoError):
            Schedule.from_json({name: value for name, value in data.items() if name != key})


@pytest.mark.slow
def test_the_four_files_keep_the_contracts_of_their_kinds(tmp_path: Path) -> None:
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for block in PLUGINS:
        (tmp_path / block.path).write_text(block.text)
    names = [Path(block.path).stem for block in PLUGINS]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/conformance", "-k", " or ".join(names)],
        cwd=tmp_path,
        env=_environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 0, ended.stdout
    assert int(re.findall(r"(\d+) passed", ended.stdout)[0]) > 100
    assert {Path(block.path).parent for block in PLUGINS} == {
        Path("hpo/samplers"), Path("hpo/engines"), Path("objectives"),
        Path("search_spaces/regularizers"),
    }  # fmt: skip


def test_installing_names_what_is_there() -> None:
    lines = [line for block in _of("sh") for line in block.text.splitlines()]
    assert lines
    for line in lines:
        if line.startswith("make "):
            subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        else:
            install = r"\.venv/bin/pip install --constraint constraints\.txt"
            assert re.fullmatch(
                rf'python3 -m venv \.venv|{install} torch|{install} --editable "\.\[plot\]"', line
            ), line


# -- saying everything ----------------------------------------------------------------------------


def _said(words: Any) -> list[str]:
    """The words that the prose and tables of the README do not name."""
    spans = set(re.findall(r"`([^`\n]+)`", PROSE))
    spans |= {part.strip() for span in spans for part in span.split(",")}
    return sorted(word for word in words if word not in spans)


def test_every_plugin_is_named() -> None:
    assert not _said(samplers.names())
    assert not _said(pruners.names())
    assert not _said(engines.names())
    assert not _said(plugins.names("objectives"))
    assert not _said(plugins.names("search_spaces.regularizers"))


def test_the_table_of_what_is_built_in_is_that_of_the_code() -> None:
    """After a wanted change: HPO_UPDATE_GOLDEN=1 pytest tests/test_readme.py -k table"""
    before, rest = TEXT.split(built_in.BEGIN)
    shown, after = rest.split(built_in.END)
    made = f"\n{built_in.section()}\n"
    if os.environ.get("HPO_UPDATE_GOLDEN"):
        page = f"{before}{built_in.BEGIN}{made}{built_in.END}{after}"
        (ROOT / "README.md").write_text(page, encoding="utf-8")
    else:
        assert shown == made


def test_every_scale_and_kind_of_schedule_is_named() -> None:
    assert not _said([*FLOAT_SCALES, *KINDS])


def test_every_key_of_a_study_file_is_shown() -> None:
    read = YAML(typ="safe")
    studies = [read.load(block.text) for block in STUDIES]
    shown: dict[str, Any] = {}
    for study in studies:
        shown = {**study, **shown}
    assert not _said(StudySpec.model_fields.keys() - shown.keys())
    assert set(shown["budget"]) == set(Budget.model_fields)
    assert {*shown["training"], "steps"} == set(Training.__dataclass_fields__)


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \| ", TEXT, re.MULTILINE)}
    assert told == {0, 1, 2, *_EXIT_CODES.values()}


def test_commands_and_options_are_those_there_are() -> None:
    table = re.findall(r"^\| `hpo (\w+)", TEXT, re.MULTILINE)
    assert table == list(COMMANDS)
    used = re.findall(r"hpo (\w+)((?: +(?:--?[a-z-]+|[^\s`|]+))*)", "\n".join(_typed_anywhere()))
    for name, rest in used:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None, name
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, (name, rest)


def _typed_anywhere() -> Iterator[str]:
    yield from re.findall(r"`(hpo [^`\n]+)`", PROSE)
    for name, row in re.findall(r"^\| `hpo (\w+)(.*)$", TEXT, re.MULTILINE):
        yield f"hpo {name} {' '.join(re.findall(r'`(--[a-z-]+)', row))}"
    for block in _of("console"):
        for command, _ in block.commands:
            yield from (part.strip() for part in command.split("&&") if part.startswith("hpo"))


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
