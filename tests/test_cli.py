"""The commands as a user meets them: transcripts, exit codes, JSON, terminals, signals.

The transcripts in golden/ are compared word by word, without times, dates and places. After a
wanted change:  HPO_UPDATE_GOLDEN=1 pytest tests/test_cli.py -k transcript  and read the difference.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import (
    OBJECTIVES,
    Ended,
    hpo,
    normalised,
    one_document,
    process,
    start,
    study_file,
    write,
)

from hpo.cli._main import COMMANDS
from hpo.folder import Folder

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder on a machine without GPUs, before a terminal of 100 columns."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("HPO_MLRUNS", raising=False)
    return folder


@pytest.fixture
def inputs(here: Path) -> Path:
    """The working folder with the files of the transcripts in it."""
    shutil.copytree(GOLDEN / "inputs", here, dirs_exist_ok=True)
    return here


# -- transcripts --------------------------------------------------------------------------------


def transcript(text: str, folder: Path) -> str:
    """The commands in `text`, each with what it says now and its exit code if it is not 0."""
    told = []
    for line in text.splitlines():
        if not line.startswith("$ hpo"):
            continue
        ended = hpo(*shlex.split(line)[2:])
        assert "Traceback" not in ended.both or "--trial" in line
        told += [line, normalised(ended.both, folder).rstrip("\n")]
        told += [f"[exit {ended.code}]"] if ended.code else []
    lines = "\n".join(told).splitlines()
    assert not [line for line in lines if line != line.rstrip()], "trailing spaces"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.txt")))
@pytest.mark.usefixtures("quick")
def test_a_transcript_is_as_it_was(name: str, inputs: Path) -> None:
    file = GOLDEN / f"{name}.txt"
    now = transcript(file.read_text(encoding="utf-8"), inputs)
    if os.environ.get("HPO_UPDATE_GOLDEN"):
        file.write_text(now, encoding="utf-8")
    assert now == file.read_text(encoding="utf-8")


# -- exit codes ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_exit_codes_say_how_it_ended(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 done, 2 a mistake of the user's, 3 nothing succeeded, 5 not available, 6 taken. 1 and 130
    have tests of their own."""
    file = study_file(here)
    failing = study_file(here / "failing", objective="raises", name="f")
    codes = {
        0: [["list"], ["run", file, "-q"], ["show"], ["--help"], ["run", "-h"], ["--version"]],
        2: [["run", "no.yaml"], ["show", "nothing"], ["nonsense"], ["run", file, "--trials", "0"]],
        3: [["run", failing, "-q"]],
        5: [["run", file, "--name", "g", "--workers", "1", "--gpus-per-trial", "1"]],
        6: [["run", file]],
    }
    for code, commands in codes.items():
        for arguments in commands:
            ended = hpo(*arguments)
            assert ended.code == code, (arguments, ended)
            assert "Traceback" not in ended.both


def test_a_locked_study_is_a_conflict(here: Path) -> None:
    from hpo.lock import lock

    assert hpo("run", study_file(here), "-q").code == 0
    guard = lock(here / "mlruns" / "studies" / "s", "s")
    try:
        ended = hpo("run", "--resume", "--name", "s", "--trials", "5")
        assert ended.code == 6
        assert re.match(r"study s is being run by another process \(pid \d+ on ", ended.err)
        assert "end it with hpo stop s" in ended.err
        listed = hpo("list", "--json").document["studies"]
        assert listed[0]["state"] == "running"
    finally:
        guard.release()


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours in `hpo list`."""

    def broken(_: Path) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("hpo.folder.studies", broken)


@pytest.mark.usefixtures("bug")
def test_a_bug_of_ours_shows_its_traceback_and_asks_for_a_report(here: Path) -> None:
    ended = hpo("list")
    assert ended.code == 1 and ended.out == ""
    assert "Traceback (most recent call last)" in ended.err and "ZeroDivisionError" in ended.err
    last = ended.err.rstrip().splitlines()[-1]
    assert last.startswith("This is a bug of hpo.") and last.endswith("hpo doctor")


@pytest.mark.usefixtures("bug")
def test_a_bug_of_ours_is_one_document_too(here: Path) -> None:
    ended = hpo("list", "--json")
    error = ended.document["error"]
    assert ended.code == error["exit"] == 1 and ended.err == ""
    assert error["code"] == "bug" and "ZeroDivisionError" in error["traceback"]


def test_a_traceback_can_be_asked_for_and_changes_no_exit_code(here: Path) -> None:
    ended = hpo("show", "nothing", "--traceback")
    assert ended.code == 2 and "Traceback" in ended.err
    assert ended.err.rstrip().endswith("start one with hpo run")


# -- JSON ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_every_command_gives_one_document(inputs: Path) -> None:
    assert hpo("run", "moving.yaml", "-q").code == 0
    documents = {
        "check tiny.yaml --no-probe": ("spec", "notes", "probe"),
        "check tiny.yaml --print-spec": ("spec",),
        "run tiny.yaml --dry-run": ("plan", "folder"),
        "show": ("study", "state", "trials", "best", "start_value", "leaderboard", "failures"),
        "show moving --trial 1": ("trial", "schedule", "traceback"),
        "schedule": ("study", "schedule", "deviation", "saved"),
        "schedule --out s.py --knots 2": ("saved",),
        "stop": ("study", "running"),
        "init fresh": ("files",),
        "doctor": ("checks",),
        "ui --print-only": ("base", "store", "charts", "compare"),
        "list": ("studies",),
        **{f"list {what}": (what,) for what in ("samplers", "pruners", "objectives", "spaces")},
        **{f"list {what}": (what,) for what in ("regularizers", "engines")},
    }
    assert {line.split()[0] for line in documents} == set(COMMANDS)
    for line, keys in documents.items():
        ended = hpo(*line.split(), "--json")
        assert ended.code == 0, (line, ended)
        assert set(keys) <= set(ended.document), line
        assert ended.out.count("\n") == 1


def test_errors_are_documents_with_their_place(here: Path) -> None:
    write(here / "study.yaml", "name: a\nobjective: digits\nspace:\n  dropuot: {high: 0.7}\n")
    ended = hpo("check", "study.yaml", "--json")
    assert ended.code == 2 and ended.err == ""
    error = ended.document["error"]
    assert error.pop("hint").startswith("known: ") and error.pop("message").startswith(
        "unknown knob"
    )
    assert error == {
        **{"code": "unknown-knob", "file": "study.yaml", "line": 4, "column": 3},
        **{"found": "dropuot", "suggest": "dropout", "path": "space.dropuot", "exit": 2},
    }


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["run", "--trails", "3"], "usage", 2),
        (["nonsense"], "usage", 2),
        (["show"], "no-study", 2),
        (["run", "no.yaml"], "no-file", 2),
    ],
)
def test_mistakes_on_the_command_line_are_documents(
    arguments: list[str], code: str, exit_code: int, here: Path
) -> None:
    ended = hpo(*arguments, "--json")
    error = ended.document["error"]
    assert (error["code"], error["exit"], ended.code) == (code, exit_code, exit_code)


def test_a_run_is_an_object_a_line_and_the_result_is_the_last(here: Path) -> None:
    ended = hpo("run", study_file(here), "--json")
    told = [one_document(line) for line in ended.out.splitlines()]
    assert [one["event"] for one in told] == [
        "header",
        *["plan", "measurement", "outcome"] * 3,
        "study",
    ]
    assert told[-1]["best"]["value"] <= told[-1]["start_value"] and ended.err == ""
    assert told[0]["spec"]["name"] == "s" and told[0]["notes"] == []


def test_a_run_that_fails_ends_with_the_error(here: Path) -> None:
    ended = hpo("run", study_file(here, objective="never_finite", text=never(here)), "--json")
    told = [one_document(line) for line in ended.out.splitlines()]
    assert ended.code == 3 and told[-1]["error"]["code"] == "nothing-succeeded"
    values = [one["metrics"]["val_loss"] for one in told if one.get("event") == "measurement"]
    assert None in values  # what was nan


def never(folder: Path) -> str:
    return f"objective_options: {{folder: '{folder}'}}\n"


# -- examples -----------------------------------------------------------------------------------


def examples() -> list[tuple[str, str]]:
    """Every example of every help, with its command."""
    found = []
    for command in COMMANDS:
        text = hpo(command, "--help").out.split("Examples:")[1]
        for line in text.splitlines():
            if line.strip().startswith("hpo "):
                found.append((command, re.split(r" {2,}", line.strip())[0]))
    return found


@pytest.mark.usefixtures("quick")
def test_the_examples_of_every_help_run(here: Path) -> None:
    """Where one would take minutes or not end, it is asked for its plan instead."""
    assert hpo("init", "my_study").code == 0 and hpo("init", ".", "--kind", "function").code == 0
    write(
        here / "my_task.py",
        (here / "my_study" / "objective.py").read_text().replace("Digits", "Faces"),
    )
    brief = ["--trials", "4", "--workers", "0", "--no-mlflow", "-q"]
    assert hpo("run", "--name", "quickstart", "--steps", "6", *brief).code == 0
    shutil.rmtree(here / "my_study")
    lines = examples()
    assert len(lines) >= 2 * len(COMMANDS)
    for command, line in lines:
        arguments = shlex.split(line.split(" > ")[0])[1:]
        if command == "check":
            arguments.append("--no-probe")
        elif command == "run" and "--resume" not in arguments:
            name = [] if len(arguments) == 1 else ["--name", "another"]
            arguments += ["--dry-run", *(name or ["--name", "new"])]
            arguments += ["--set", "space.dropout={low: 0, high: 1}"] if "--set" in line else []
        elif command == "run":
            arguments += ["--dry-run"]
        elif command == "ui" and "--print-only" not in arguments:
            arguments.append("--print-only")
        elif command == "init":
            arguments[1] += f"_{len(arguments)}"
        elif command == "doctor" and "--mlruns" in arguments:
            arguments[arguments.index("--mlruns") + 1] = str(here / "data")
        ended = hpo(*arguments)
        assert ended.code == 0, (line, ended.both)
    assert (here / "schedule.py").exists() and (here / "schedule.png").stat().st_size > 1000


# -- init and check -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["task", "function"])
def test_what_init_writes_can_be_checked_and_run(kind: str, here: Path) -> None:
    ended = hpo("init", "new", "--kind", kind)
    assert (
        ended.out.splitlines()[-1] == "next  cd new && hpo check study.yaml && hpo run study.yaml"
    )
    os.chdir("new")
    assert hpo("check", "study.yaml", "--no-probe").out.startswith(
        "ok        objective objective.py"
    )
    steps = ["--steps", "4"] if kind == "task" else []
    brief = ["--trials", "2", "--workers", "0", "--no-mlflow", "--json"]
    ended = hpo("run", "study.yaml", *steps, *brief)
    assert ended.code == 0, ended.err
    assert one_document(ended.out.splitlines()[-1])["best"]["value"] > 0


def test_init_overwrites_only_when_told(here: Path) -> None:
    assert hpo("init").code == 0
    write(here / "study.yaml", "mine")
    ended = hpo("init")
    assert ended.code == 6 and "holds study.yaml and objective.py already" in ended.err
    assert (here / "study.yaml").read_text() == "mine"
    assert hpo("init", "--force").code == 0 and (here / "study.yaml").read_text() != "mine"
    ended = hpo("init", "study.yaml")
    assert ended.code == 2 and "is a file" in ended.err
    ended = hpo("init", "study.yaml/below")
    assert ended.code == 2 and "Not a directory" in ended.err and "Traceback" not in ended.err


@pytest.fixture
def odd(here: Path) -> Path:
    """Objectives that a probe finds out about."""
    return write(
        here / "odd.py",
        "import os, sys, time\n"
        "def good(h, seed):\n"
        "    for n in range(10):\n"
        "        yield {'val_loss': h(n / 10)['x']}\n"
        "def nan(h, seed):\n"
        "    return float('nan')\n"
        "def raises(h, seed):\n"
        "    raise ValueError('no data')\n"
        "def dies(h, seed):\n"
        "    print('last words', flush=True)\n"
        "    os._exit(7)\n"
        "def killed(h, seed):\n"
        "    os.kill(os.getpid(), 9)\n"
        "def loud(h, seed):\n"
        "    sys.stdout.write('x' * 5_000_000)\n"
        "    os.fork() or time.sleep(600)\n"
        "    return 1.0\n",
    )


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("good", 0, "ok        objective odd.py:good  [function]   3 reports probed in "),
        ("nan", 0, "note      val_loss is nan at the start values: such a trial fails"),
        ("raises", 2, "the probe of odd.py:raises failed: ValueError: no data  (odd.py:8)"),
        ("dies", 2, "the probe of odd.py:dies ended with 7\nlast words"),
        ("killed", 2, "the probe of odd.py:killed was killed by SIGKILL"),
        ("loud", 0, "1 report probed in"),
    ],
)
@pytest.mark.usefixtures("no_process_left")
def test_check_probes_in_a_process_of_its_own(
    name: str, code: int, said: str, odd: Path, here: Path
) -> None:
    options = ["--set", "space={x: {low: 0, high: 1}}"]
    ended = hpo("check", "--objective", f"odd.py:{name}", *options)
    assert ended.code == code and said in ended.both, ended.both
    assert len(ended.both) < 6000
    assert not (here / "mlruns").exists()
    if name == "good":
        plan = next(line for line in ended.out.splitlines() if line.startswith("plan"))
        assert re.fullmatch(
            r"plan      20 trials, about [\d.]+s a trial, [\d.]+s in all, on cpu, \d\.\d GiB a worker",
            plan,
        )


@pytest.mark.slow
def test_check_trains_three_steps_of_a_task_and_tells_the_cost(inputs: Path) -> None:
    arguments = ["--objective", "plain.py:Plain", "--space", "regularization"]
    ended = hpo("check", *arguments)
    assert re.match(r"ok .*\(64 rows\).*   3 steps probed in [\d.]+m?s\n", ended.out)
    assert "note      dropout ignored: this model has no dropout sites\n" in ended.out
    plan = r"plan      20 trials x 1000 steps, about \S+ a trial, \S+ in all, on \S+, \d\.\d GiB a"
    assert re.search(plan, ended.out)
    document = hpo("check", *arguments, "--json").document
    assert document["notes"] and document["probe"]["steps"] == 3
    assert document["probe"]["trial_seconds"] > 0 and document["probe"]["memory"] > 2**26
