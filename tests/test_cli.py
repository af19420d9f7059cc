"""The commands as a user meets them: transcripts, exit codes, JSON, terminals, signals.

The transcripts in golden/ are compared word by word, without times, dates and places. After a
wanted change:  HPO_UPDATE_GOLDEN=1 pytest tests/test_cli.py -k transcript  and read the difference.
"""

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
from collections.abc import Iterable
from pathlib import Path

import pytest
from shell import (
    hpo,
    normalised,
    one_document,
    process,
    start,
    study_file,
    write,
)

from hpo.cli._main import COMMANDS

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
        assert "Traceback" not in ended.both, ended.both
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
        **{f"list {what}": (what,) for what in ("regularizers", "augmentations", "policies")},
        "list engines": ("engines",),
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
    assert error.pop("hint").startswith("like it: dropout, ") and error.pop("message").startswith(
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


@pytest.mark.slow
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
            arguments[1] += f"_{arguments[-1]}"
        elif command == "doctor" and "--mlruns" in arguments:
            arguments[arguments.index("--mlruns") + 1] = str(here / "data")
        ended = hpo(*arguments)
        # The server of the example is nowhere, which doctor says.
        expected = 5 if command == "doctor" and "--tracking-uri" in arguments else 0
        assert ended.code == expected, (line, ended.both)
    assert (here / "schedule.py").exists() and (here / "schedule.png").stat().st_size > 1000


# -- schedule and taken names --------------------------------------------------------------------


CONDITIONAL = (
    "space:\n  x: {low: 0, high: 1}\n  act: {options: [relu, gelu]}\n"
    "  slope: {low: 0, high: 1, when: {act: gelu}}\n"
)


@pytest.mark.usefixtures("quick")
def test_a_schedule_does_not_show_what_is_off(here: Path) -> None:
    assert hpo("run", study_file(here, CONDITIONAL), "--trials", "1", "-q").code == 0
    shown = hpo("schedule").out.splitlines()
    assert shown[1].split() == ["always", "0.500", "relu", "-"]
    assert shown[2] == "slope is off: it counts only while act is gelu"
    assert hpo("schedule", "--json").document["off"] == ["slope"]


@pytest.mark.parametrize(
    ("high", "said"),
    [
        (0.0, "The values are held constant over training."),
        (0.01, "The values move by no more than 1.0% of each knob's range."),
        (0.5, "2 knots describe the training exactly."),
    ],
)
def test_only_what_is_constant_is_called_constant(high: float, said: str, here: Path) -> None:
    """A track that rises slightly is told with its two ends."""
    from hpo.cli.schedule import _lines
    from hpo.result import open_study
    from search_spaces.domains import Float
    from search_spaces.schedule import Schedule
    from search_spaces.space import SearchSpace

    assert hpo("run", study_file(here), "-q").code == 0
    space = SearchSpace({"x": Float(0, 1)})
    path = Schedule.recorded(space, [(0.0, {"x": 0.0}), (1.0, {"x": high})])
    lines = _lines(open_study("s"), path, *path.thin(8, 0.02))
    ends = [line.split() for line in lines[1:-1]]
    assert lines[-1] == said
    assert ends == ([["0%", "0.000"], ["100%", f"{high:.3f}"]] if high else [["always", "0.000"]])


@pytest.mark.usefixtures("quick")
def test_a_misspelt_key_is_told_before_a_taken_name(here: Path) -> None:
    """The name may be taken because of it."""
    task = Path(__file__).with_name("toy_tasks.py")
    file = write(here / "study.yaml", f"name: s\nobjective: {task}:Blobs\nspace: [dropout]\n")
    (here / "mlruns" / "studies" / "s").mkdir(parents=True)
    (here / "mlruns" / "studies" / "s" / "spec.yaml").write_text("objective: digits\n")
    for dry in ([], ["--dry-run"]):
        ended = hpo("run", file, "--set", "space.dropuot.low=0", *dry)
        assert ended.code == 2, ended.both
        assert ended.err.startswith(
            "--set space.dropuot.low=0: unknown knob 'dropuot', did you mean"
        )
        ended = hpo("run", file, "--set", "space.dropout.low=0", *dry)
        assert ended.code == 6 and ended.err.startswith("study s exists")


# -- init and check -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["task", "function", "bilevel"])
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


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_first_own_study_visibly_improves_on_its_start_values(here: Path) -> None:
    assert hpo("init").code == 0
    ended = hpo("run", "study.yaml", "--workers", "0", "--no-mlflow", "--json")
    result = one_document(ended.out.splitlines()[-1])
    assert result["best"]["value"] < 0.97 * result["start_value"]


@pytest.mark.parametrize("name", ["regularization_curves", "targets", "everything"])
def test_init_copies_a_set_of_knobs_to_edit(name: str, here: Path) -> None:
    from hpo import yamlfile
    from search_spaces import presets

    assert hpo("init", "--space", name).code == 0
    text = (here / "study.yaml").read_text()
    assert all(f"  {line}".rstrip() in text for line in presets.text(name).splitlines())
    assert not re.search(r" $", text, re.MULTILINE)
    assert yamlfile.load(Path("study.yaml")).data["space"] == presets.load(name)
    if name != "everything":  # of a copy nothing is left out
        assert hpo("check", "study.yaml", "--no-probe").code == 0
    ended = hpo("init", "--force", "--space", "target")
    assert ended.code == 2 and "did you mean 'targets'" in ended.err
    for other in (["--kind", "bilevel"], ["--cluster"]):
        ended = hpo("init", "--force", "--space", name, *other)
        assert ended.code != 0 and f"--space {name} with" in ended.err


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
        cost = r"20 trials, about [\d.]+s a trial, [\d.]+s in all, on cpu, \d\.\d GiB a worker"
        assert re.fullmatch(rf"plan      {cost}", plan)


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


# -- results on the screen ----------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_show_fits_the_terminal_and_says_what_it_left_out(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = "space:\n" + "".join(f"  a_knob_{n}: {{low: 0, high: 1}}\n" for n in range(12))
    assert hpo("run", study_file(here, knobs, objective="flat"), "-q").code == 0
    wide = hpo("show").out
    assert "a_knob_11" in wide.split("rank")[1].splitlines()[0]
    monkeypatch.setattr("hpo.wording.terminal_width", lambda: 60)
    monkeypatch.setattr("hpo.cli._study.terminal_width", lambda: 60)
    narrow = hpo("show").out
    table = narrow[narrow.index("rank") :].splitlines()
    assert all(len(line) <= 60 for line in table[:4])
    assert table[0].endswith("time") and "too narrow for" in table[4] and "a_knob_11" in table[4]
    schedule = hpo("schedule").out.splitlines()
    assert len(schedule[0]) <= 60 and "too narrow for" in schedule[2]


@pytest.mark.usefixtures("quick")
def test_show_tells_a_failed_trial_with_its_traceback(inputs: Path) -> None:
    assert hpo("run", "tiny.yaml", "--objective", "quad.py:never").code == 3
    told = hpo("show", "tiny", "--trial", "0").out
    assert told.startswith("trial 0   failed   ") and "Traceback (most recent call last)" in told
    assert 'quad.py", line 17, in never' in told
    document = hpo("show", "tiny", "--trial", "0", "--json").document
    assert document["trial"]["reason"] == "error" and "Traceback" in document["traceback"]


@pytest.mark.usefixtures("quick")
def test_csv_is_a_table_of_all_trials(inputs: Path) -> None:
    assert hpo("run", "tiny.yaml", "-q").code == 0
    header, *rows = hpo("show", "--csv").out.splitlines()
    assert header.startswith("number,state,val_loss,holdout,step,start.x,start.act,seconds")
    assert len(rows) == 6 and rows[1].startswith("1,complete,0.0625,,4,0.5,relu,")


@pytest.mark.usefixtures("quick")
def test_watching_redraws_until_the_study_ends(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hpo("run", "tiny.yaml", "-q").code == 0
    turns = iter([{"pid": 1}] * 8)
    for place in ("hpo.lock.holder", "hpo.result.holder"):
        monkeypatch.setattr(place, lambda _: next(turns, None))
    naps: list[float] = []
    monkeypatch.setattr("hpo.cli.show.time.sleep", naps.append)
    told = hpo("show", "--watch")
    assert told.code == 0 and naps and set(naps) == {2}
    assert told.out.count("study tiny") == 1  # a pipe gets the end only


def test_lists_name_what_is_there(here: Path) -> None:
    from hpo import engines, pruners, samplers
    from search_spaces import catalogue, plugins, presets

    def knobs(records: Iterable[str]) -> list[str]:
        return [knob for name in records for knob in catalogue.load(name).knobs]

    there = {
        "samplers": samplers.names(),
        "pruners": pruners.names(),
        "objectives": plugins.names("objectives"),
        "spaces": list(presets.names()),
        "engines": engines.names(),
        "regularizers": knobs(plugins.names(catalogue.REGULARIZERS)),
        "augmentations": knobs(f"augment.{name}" for name in plugins.names(catalogue.OPERATIONS)),
        "policies": knobs(plugins.names(catalogue.POLICIES)),
    }
    for what, names in there.items():
        for more in ([], ["--long"]):
            ended = hpo("list", what, *more)
            assert ended.code == 0 and ended.err == ""
            first = [line.split()[0] for line in ended.out.splitlines() if line[0] != " "]
            assert set(names) <= {*first, what.removesuffix("s")}, (what, more)
            assert all(line == line.rstrip() for line in ended.out.splitlines())
    assert "startup_trials=10" in hpo("list", "samplers", "--long").out
    assert "path=(required)" in hpo("list", "objectives", "--long").out


@pytest.mark.usefixtures("quick")
def test_a_study_that_cannot_be_read_does_not_hide_the_others(here: Path) -> None:
    assert hpo("run", study_file(here), "-q").code == 0
    write(here / "mlruns" / "studies" / "broken" / "spec.yaml", "objective: [")
    ended = hpo("list")
    assert ended.code == 0
    assert re.search(r"^s +\S+:value .* finished$", ended.out, re.MULTILINE)
    assert re.search(r"^broken +\? .* unreadable: not YAML", ended.out, re.MULTILINE)
    states = {one["study"]: one["state"] for one in hpo("list", "--json").document["studies"]}
    assert states == {"s": "finished", "broken": "unreadable"}


@pytest.mark.usefixtures("quick")
def test_commands_that_are_named_work_from_here(here: Path) -> None:
    """The next commands at the end carry the folder where it is not the default one."""
    ended = hpo("run", study_file(here), "--mlruns", "runs", "-q", "--trials", "2")
    told = [line[10:].split("      ")[0] for line in ended.out.splitlines()[-2:]]
    assert told == ["hpo schedule --mlruns runs", "hpo show --mlruns runs"]
    for line in told:
        assert hpo(*line.split()[1:]).code == 0
    assert hpo("show", here / "runs" / "studies" / "s").code == 0


# -- after the end ------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_command_runs_at_the_end_and_knows_what_ended(here: Path) -> None:
    tell = 'echo "$HPO_STUDY $HPO_EXIT $HPO_FOLDER $HPO_SCHEDULE" >> told; echo noise'
    file = study_file(here)
    ended = hpo("run", file, "--json", "--on-finish", tell)
    assert ended.code == 0 and "noise" not in ended.out
    assert hpo("run", file, "--on-finish", tell).code == 6
    failing = study_file(here / "f", objective="raises", name="f")
    assert hpo("run", failing, "-q", "--on-finish", tell).code == 3
    folder = here / "mlruns" / "studies"
    assert (here / "told").read_text().splitlines() == [
        f"s 0 {folder / 's'} {folder / 's' / 'schedule.json'}",
        f"s 6 {folder / 's'} {folder / 's' / 'schedule.json'}",
        f"f 3 {folder / 'f'} {folder / 'f' / 'schedule.json'}",
    ]
    assert json.loads((folder / "s" / "schedule.json").read_text())["kind"] == "hpo-schedule"


@pytest.mark.usefixtures("quick")
def test_a_command_at_the_end_that_fails_changes_nothing(here: Path) -> None:
    ended = hpo("run", study_file(here), "-q", "--on-finish", "exit 9")
    assert ended.code == 0 and ended.err == "--on-finish ended with exit code 9\n"


# -- pipes, terminals, signals ------------------------------------------------------------------


def test_the_module_is_the_command(here: Path) -> None:
    ended = process("--version")
    assert ended.code == 0 and re.fullmatch(r"hpo \d+\.\d+\.\d+\n", ended.out)


@pytest.mark.parametrize(
    "arguments", [["list", "samplers", "--long"], ["list", "pruners", "--json"]]
)
def test_a_reader_that_leaves_early_is_no_error(arguments: list[str], here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start(*arguments, stdout=writer) as running:
        os.close(writer)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 141 and err == ""


def test_progress_that_nobody_reads_does_not_stop_a_study(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start("run", study_file(here), stderr=writer) as running:
        os.close(writer)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 0 and out.startswith("\nbest      trial ")


def test_closed_streams_are_no_error(here: Path) -> None:
    file = study_file(here)
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shutil.rmtree(here / "mlruns", ignore_errors=True)
        command = f"{sys.executable} -m hpo.cli run {file} {closed}"
        ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended
        assert "Traceback" not in ended.stderr and "Error" not in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_any_encoding_will_do(encoding: str, here: Path) -> None:
    study_file(here, f"objective_options: {{limit: 0.1}}\nname: {encoding}\n", "raises_above")
    text = (here / "study.yaml").read_text().replace("name: s\n", "")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    ended = process("run", write(here / "study.yaml", text), env=environment)
    assert ended.code in {0, 3} and "UnicodeEncodeError" not in ended.err
    assert process("list", "--long", "spaces", env=environment).code == 0


class Terminal:
    """A command in a pseudo-terminal of its own, as a user sees it."""

    def __init__(self, *arguments: str | Path, columns: int = 100) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.pop("COLUMNS", None)
            os.environ["TERM"] = "xterm"
            command = [sys.executable, "-m", "hpo.cli", *map(str, arguments)]
            os.execv(sys.executable, command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.text, self.ended = "", False

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            self.end()

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Reads until the pattern was drawn; gives all that was drawn so far."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[-2000:]!r}"
            if not self._read(0.1):
                break
        assert re.search(pattern, self.text), self.text
        return self.text

    def send(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self) -> int:
        """Reads to the end; gives the exit code."""
        while self._read(60):
            pass
        os.close(self.fd)
        self.ended = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], seconds)
        try:
            read = os.read(self.fd, 65536) if ready else b" "
        except OSError:  # the other side is closed
            return False
        self.text += read.decode() if ready else ""
        return bool(read)

    @property
    def frames(self) -> list[str]:
        """The lines that were drawn, one after the other, without control sequences."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", self.text)
        return [line for line in re.split(r"[\r\n]+", plain) if line]


@pytest.mark.usefixtures("no_process_left")
def test_a_terminal_shows_running_trials_and_ctrl_c_leaves_a_study_to_resume(
    here: Path, marks: Path
) -> None:
    options = f"objective_options: {{folder: '{marks}'}}\nworkers: 1\nbudget: {{trials: 4}}\n"
    with Terminal("run", study_file(here, options, "slow")) as shown:
        shown.until(r"trial 0   ##-+    10%   val_loss 1\.00   best 1\.00 @1   x 0\.500   eta \d")
        assert "running     trial 0 at 10% (step 1, val_loss 1.00)\n" in hpo("show").out
        asked = hpo("stop", "--json").document
        assert asked == {"format": 1, "study": "s", "running": True}
        with Terminal("show", "--watch") as watched:
            watched.until("running     trial 0 at 10%")
            watched.until("Ctrl-C leaves this view; the study goes on")
            watched.send("\x03")
            assert watched.end() == 130 and "Traceback" not in watched.text
        shown.send("\x03")
        shown.until("stopping: trial 0 is at 10%, waiting up to 30s")
        (marks / "go").touch()
        shown.until(r"trial 0   done   val_loss 0\.500")
        assert shown.end() == 130
    last = shown.frames[-1]
    assert last == "saved. 1 of 4 trials are done.  continue:  hpo run --resume --name s"
    assert all(len(line) < 100 for line in shown.frames if line.startswith("trial "))
    assert shown.text.count("\x1b[?25l") == shown.text.count("\x1b[?25h")
    assert not re.search(r"\x1b\[\d*(;\d+)*m", shown.text)
    with Terminal(*last.split("continue:  hpo ")[1].split()) as again:
        assert again.end() == 0
    assert "best      trial 0, val_loss 0.500: these are the start values" in again.text


def test_a_polite_kill_ends_like_ctrl_c(here: Path, marks: Path) -> None:
    options = f"objective_options: {{folder: '{marks}'}}\nworkers: 1\n"
    with start("run", study_file(here, options, "slow"), "--json") as running:
        assert running.stdout is not None
        while '"measurement"' not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGTERM)
        (marks / "go").touch()
        rest, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    error = one_document(rest.splitlines()[-1])["error"]
    assert (error["code"], error["exit"]) == ("interrupted", 130)
    assert "--resume --name s" in error["message"]
