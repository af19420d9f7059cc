"""What a study says: lines for a pipe, redrawn ones for a terminal, JSON for programs."""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpo import console as consoles
from hpo.console import Console
from hpo.problem import load
from hpo.spec import from_mapping
from hpo.summary import closing, ending, first_line, header
from hpo.wording import (
    describe,
    duration,
    knob,
    mlruns_option,
    number,
    plural,
    shown,
    table,
    without,
    wrapped,
)
from search_spaces.domains import Choice, Domain, Float, Int


class Screen(io.StringIO):
    """A stream that says what it is."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def said(screen: Screen, clock: Clock) -> Iterator[Console]:
    """A console that writes lines, as into a pipe."""
    console = Console("lines", "val_loss", "minimize", screen, clock)
    yield console
    console.close()


def start(trial: int = 0, attempt: int = 0) -> dict[str, Any]:
    return {"event": "start", "trial": trial, "attempt": attempt, "params": {}, "tags": {}}


def measured(trial: int = 0, step: int = 1, of: int = 4, value: float = 1.0) -> dict[str, Any]:
    return {
        **{"event": "measurement", "trial": trial, "attempt": 0, "step": step, "time": step},
        **{"progress": step / of, "metrics": {"val_loss": value}, "point": {"x": 0.25}},
    }


def end(trial: int = 0, outcome: str = "complete", **more: Any) -> dict[str, Any]:
    metrics = {"best/val_loss": 0.287, "seconds": 24.0}
    return {
        **{"event": "end", "trial": trial, "attempt": 0, "outcome": outcome, "reason": ""},
        **{"message": "", "metrics": metrics, "tags": {}, "time": 5000},
        **more,
    }


# -- numbers and the like -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.287, "0.287"),
        (0.3, "0.300"),
        (1.0, "1.00"),
        (25.04, "25.0"),
        (123.456, "123.5"),
        (0.0004, "4.0e-04"),
        (-0.5, "-0.500"),
        (2.5e6, "2.5e+06"),
        (0.0, "0"),
        (7, "7"),
        (True, "true"),
        (None, "none"),
        ("relu", "relu"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ((0.1, 0.2), "(0.100, 0.200)"),
        ((0.1,) * 9, "(0.100, 0.100, 0.100, … 0.100)"),
    ],
)
def test_numbers_have_three_digits(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("domain", "value", "text"),
    [
        (Float(0, 0.7), 0.05, "0.050"),
        (Float(0, 0.7), 0.0, "0.000"),
        (Float(0, 25), 12.345, "12.3"),
        (Float(100, 100.1), 100.0456, "100.0456"),
        (Float(0, 1e6), 123456.0, "1.23e+05"),
        (Float(0.5, 0.5), 0.5, "0.500"),
        (Float(1e-6, 1, "log"), 3.14e-4, "3.1e-04"),
        (Float(0, 1, "log+0"), 0.0, "0"),
        (Float(0, 1, size=2), (0.5, 0.25), "(0.500, 0.250)"),
        (Int(1, 8), 3, "3"),
        (Choice(("a", None)), None, "none"),
        (None, 0.3, "0.300"),
    ],
)
def test_values_of_a_knob_are_written_alike(domain: Domain | None, value: Any, text: str) -> None:
    assert knob(domain, value) == text


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (Float(1e-6, 0.1, "log"), "1e-06..0.1 log"),
        (Float(0, 0.7), "0..0.7"),
        (Float(0, 1, size=3), "0..1 x3"),
        (Int(1, 8), "1..8 int"),
        (Int(1, 8, "log"), "1..8 int log"),
        (Choice(("relu", True, None)), "relu|true|none"),
    ],
)
def test_ranges_are_short(domain: Domain, text: str) -> None:
    assert describe(domain) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0s"), (0.34, "0.3s"), (9.97, "10s"), (24.4, "24s"), (119, "119s")),
        *((119.7, "2m00s"), (190, "3m10s"), (7199, "119m59s"), (7500, "2h05m")),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plurals() -> None:
    assert [plural(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]


def test_paths_are_shown_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPO_MLRUNS", raising=False)
    assert shown(tmp_path / "a" / "b") == str(Path("a", "b"))
    assert shown(tmp_path.parent) == str(tmp_path.parent)
    assert mlruns_option(tmp_path / "mlruns") == ""
    assert mlruns_option(tmp_path / "runs") == " --mlruns runs"
    monkeypatch.setenv("HPO_MLRUNS", str(tmp_path / "runs"))
    assert mlruns_option(tmp_path / "runs") == ""


def test_tables_have_no_trailing_spaces_and_fit() -> None:
    header, rows = ["name", "n", "about"], [["a", "1", "one two three four"], ["bb", "22", ""]]
    lines = table(header, rows, left=["name", "about"])
    assert lines == ["name   n  about", "a      1  one two three four", "bb    22"]
    narrow = table(header, rows, left=["name", "about"], width=32)
    assert narrow[1:3] == ["a      1  one two three four", "bb    22"]
    narrow = table(header, [["a", "1", "word " * 12]], left=["name", "about"], width=40)
    assert all(len(line) <= 40 for line in narrow) and narrow[2].startswith(" " * 9 + "word")


def test_columns_that_do_not_fit_are_left_out_and_named() -> None:
    header, rows = ["rank", "aaaa", "bbbb", "cccc", "time"], [["1", "2", "3", "4", "5"]]
    kept, cells, gone = without(header, rows, ["aaaa", "bbbb", "cccc"], 24)
    assert kept == ["rank", "aaaa", "bbbb", "time"] and cells == [["1", "2", "3", "5"]]
    assert gone == ["cccc"]
    assert without(header, rows, ["aaaa"], None)[2] == []
    assert without(header, rows, ["aaaa", "bbbb", "cccc"], 1)[0] == ["rank", "time"]


def test_a_long_list_goes_on_below() -> None:
    lines = wrapped("knobs", [f"knob_{n} 0..1" for n in range(9)], width=50)
    assert lines[0].startswith("knobs       knob_0 0..1   knob_1")
    assert len(lines) == 5 and all(line.startswith(" " * 12 + "knob_") for line in lines[1:])
    assert wrapped("knobs", []) == ["knobs"]


# -- what was said, line by line ----------------------------------------------------------------


def test_a_trial_is_one_line_when_it_ends(said: Console, screen: Screen) -> None:
    said(start())
    said(measured())
    assert screen.lines == []
    said(end())
    said(start(1))
    said(end(1, "pruned"))
    said(start(2))
    failed = {"reason": "error", "message": "ValueError: no\nwas told"}
    said(end(2, "failed", metrics={"seconds": 1.0}, **failed))
    assert screen.lines == [
        "trial 0   done   val_loss 0.287   24s",
        "trial 1   pruned   val_loss 0.287   24s",
        "trial 2   failed   ValueError: no   1.0s",
    ]


def test_messages_from_elsewhere_cannot_steer_a_terminal() -> None:
    assert (
        first_line("\x1b[31mred\x1b]0;title\x07 \u202eevil\nsecond") == "?[31mred?]0;title? ?evil"
    )
    assert len(first_line("x" * 5000)) == 200 and first_line("  \n ") == ""
    line = ending(end(outcome="failed", message="\x1b[2J"), "val_loss")
    assert line.isprintable()


def test_a_retry_is_told_and_the_end_of_its_attempt_is_not(said: Console, screen: Screen) -> None:
    retry = {"event": "retry", "trial": 0, "attempt": 0, "message": "killed", "step": 1}
    said(start())
    said(measured())
    said({**retry, "reason": "lost", "time": 1000})
    said(end(0, "failed", reason="lost", message="killed", time=1001))
    assert screen.lines == ["trial 0   killed; it is tried again"]
    said(start(0, attempt=1))
    said({**retry, "reason": "oom", "message": "no memory", "time": 2000})
    said(end(0, "failed", reason="oom", message="no memory", time=2500))
    assert screen.lines[1:] == [
        "trial 0   no memory; it is tried alone",
        "trial 0   failed   no memory   24s",
    ]


def test_an_attempt_of_a_driver_that_died_is_not_a_trial_that_failed(
    said: Console, screen: Screen
) -> None:
    interrupted = {"reason": "lost", "message": "the study was interrupted", "metrics": {}}
    said(end(3, "failed", **interrupted))
    said(end(4))
    assert screen.lines == [
        "trial 3   the study was interrupted; it begins again",
        "trial 4   done   val_loss 0.287   24s",
    ]


def test_many_short_trials_are_counted_instead_of_listed(
    said: Console, screen: Screen, clock: Clock
) -> None:
    for trial in range(100):
        said(start(trial))
        said(end(trial))
    assert len(screen.lines) == consoles.LINES_A_SECOND
    clock.now = 2.0
    said(start(100))
    said(end(100))
    assert screen.lines[-2:] == ["…   90 more ended", "trial 100   done   val_loss 0.287   24s"]


def test_endings_that_were_not_listed_are_counted_at_the_close(screen: Screen) -> None:
    console = Console("lines", "val_loss", "minimize", screen, Clock())
    for trial in range(12):
        console(start(trial))
        console(end(trial))
    console.close()
    assert screen.lines[-1] == "…   2 more ended"


def test_failures_are_always_listed(said: Console, screen: Screen) -> None:
    for trial in range(30):
        said(start(trial))
        said(end(trial, "failed", message=f"no {trial}"))
    assert len(screen.lines) == 30


def test_a_heartbeat_after_half_a_minute_of_silence(
    said: Console, screen: Screen, clock: Clock
) -> None:
    said(start())
    said(measured(step=2))
    clock.now = 29.0
    said.heartbeat()
    assert screen.lines == []
    clock.now = 31.0
    said.heartbeat()
    said.heartbeat()
    assert screen.lines == ["…   0 trials ended   trial 0 at 50%"]


def test_stopping_tells_what_is_waited_for(said: Console, screen: Screen) -> None:
    said(start(3))
    said(measured(3, step=61, of=100))
    said({"event": "stopping", "seconds": 30.0, "trials": [3]})
    wait = "waiting up to 30s (Ctrl-C again to drop it)"
    assert screen.lines == [f"stopping: trial 3 is at 61%, {wait}"]


def test_a_pipe_gets_no_control_characters(said: Console, screen: Screen) -> None:
    for event in (start(), measured(), end(), start(1), end(1)):
        said(event)
    said.warn("MLflow does not answer")
    assert all(line.isprintable() and line == line.rstrip() for line in screen.lines)


def test_a_reader_that_is_gone_does_not_stop_the_study(clock: Clock) -> None:
    class Gone(Screen):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = Console("lines", "val_loss", "minimize", Gone(), clock)
    for event in (start(), end()):
        console(event)
    console.close()


# -- a terminal ---------------------------------------------------------------------------------


@pytest.fixture
def drawn(clock: Clock) -> Console:
    """A console whose lines for a terminal are looked at without one."""
    console = Console("terminal", "val_loss", "minimize", Screen(terminal=True), clock)
    console.steps = 3000
    console.space = {"dropout": Float(0, 0.7), "weight_decay": Float(1e-6, 1e-1, "log")}
    return console


def running(console: Console, step: int, value: float) -> None:
    event = measured(0, step, 3000, value)
    event["point"] = {"dropout": 0.21, "weight_decay": 3.14e-4}
    console._on_measurement(event)


def test_a_running_trial_is_a_line_with_bar_best_knobs_and_the_time_left(
    drawn: Console, clock: Clock
) -> None:
    running(drawn, 1500, 0.302)
    running(drawn, 1700, 0.318)
    clock.now = 24.0
    assert drawn.progress(200) == [
        "trial 0   #########-------   1700/3000   val_loss 0.318   best 0.302 @1500"
        "   dropout 0.210   weight_decay 3.1e-04   eta 18s"
    ]


def test_what_does_not_fit_is_left_out_but_never_the_time_left(
    drawn: Console, clock: Clock
) -> None:
    running(drawn, 1700, 0.318)
    clock.now = 24.0
    for width in (120, 100, 80, 70):
        (line,) = drawn.progress(width)
        assert len(line) < width and line.endswith("eta 18s")
    assert drawn.progress(20)[0].startswith("trial 0   ####")


def test_the_time_left_is_told_after_a_twentieth(drawn: Console, clock: Clock) -> None:
    clock.now = 10.0
    running(drawn, 149, 0.5)
    assert "eta" not in drawn.progress(200)[0]
    running(drawn, 150, 0.5)
    assert drawn.progress(200)[0].endswith("eta 0.0s")


def test_the_time_a_worker_takes_to_start_is_not_the_time_of_a_step(
    drawn: Console, clock: Clock
) -> None:
    drawn.style = "quiet"
    drawn(start())
    clock.now = 20.0
    running(drawn, 30, 0.5)
    clock.now = 30.0
    running(drawn, 1530, 0.4)
    assert drawn.progress(200)[0].endswith("eta 9.8s")


def test_the_best_step_is_told_by_the_hold_out(drawn: Console) -> None:
    for step, value, holdout in ((1, 0.9, 0.9), (2, 0.5, 0.4), (3, 0.3, 0.6)):
        event = measured(0, step, 3000)
        event["metrics"] = {"val_loss": value, "holdout_loss": holdout}
        drawn._on_measurement(event)
    assert "val_loss 0.300   best 0.500 @2" in drawn.progress(200)[0]


def test_a_study_is_a_line_once_something_has_ended(drawn: Console) -> None:
    drawn._on_start(start())
    drawn._live and drawn.close()
    assert len(drawn.progress(100)) == 1
    drawn._live = None
    drawn.style = "quiet"
    drawn(end())
    drawn({"event": "best", "trial": 0, "step": 0, "value": 0.287})
    assert drawn.progress(100) == ["1 trial ended   best val_loss 0.287 (trial 0)"]


def test_a_terminal_is_redrawn_and_left_clean(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(terminal=True)
    console = Console("terminal", "val_loss", "minimize", screen, clock)
    console.line("before")
    for event in (start(), measured(), end(), start(1)):
        console(event)
    console.close()
    text = screen.getvalue()
    assert text.startswith("before\n") and "trial 0   done   val_loss 0.287   24s" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    colours = [part for part in text.split("\x1b[")[1:] if part.split("m")[0].isdigit()]
    assert not colours


@pytest.mark.parametrize(
    ("terminal", "term", "asked", "style"),
    [
        (True, "xterm", {}, "terminal"),
        (True, "dumb", {}, "lines"),
        (False, "xterm", {}, "lines"),
        (True, "xterm", {"as_json": True}, "json"),
        (True, "xterm", {"quiet": True}, "quiet"),
    ],
)
def test_the_style_follows_what_was_asked_and_where_it_goes(
    terminal: bool, term: str, asked: dict[str, bool], style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", Screen(terminal))
    monkeypatch.setitem(os.environ, "TERM", term)
    assert consoles.style(**{"as_json": False, "quiet": False, **asked}) == style


# -- JSON and quiet -----------------------------------------------------------------------------


def test_json_is_one_object_a_line_with_null_for_what_json_lacks(
    screen: Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console("json", "val_loss", "minimize", screen)
    for event in (
        {"event": "study", "study": "s", "params": {}},
        start(),
        measured(value=float("nan")),
        end(metrics={"best/val_loss": float("inf")}),
        {"event": "best", "trial": 0, "value": 1.0},
        {"event": "close", "status": "finished"},
    ):
        console(event)
    console.line("not for programs")
    console.warn("for everybody")
    console.close()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in told] == ["plan", "measurement", "outcome"]
    assert all(one["format"] == 1 for one in told)
    assert told[1]["metrics"]["val_loss"] is None and told[2]["metrics"]["best/val_loss"] is None
    assert screen.lines == ["for everybody"]


def test_quiet_tells_warnings_only(screen: Screen) -> None:
    console = Console("quiet", "val_loss", "minimize", screen)
    for event in (start(), measured(), end()):
        console(event)
    console.line("progress")
    console.warn("MLflow does not answer")
    console.close()
    assert screen.lines == ["MLflow does not answer"]


# -- beginning and end --------------------------------------------------------------------------


def test_the_header_states_objective_sampler_knobs_budget_and_folder(tmp_path: Path) -> None:
    def objective(h: Any, seed: int) -> float:
        return 1.0

    described = from_mapping(
        {
            "name": "s",
            "objective": "toy_objectives:value",
            "space": {f"knob_{n}": {"low": 0, "high": 1} for n in range(12)},
            "fixed": {"gamma": 0.9},
            "budget": {"trials": 1, "time": "20m", "plateau": 5},
            "seeds": 3,
        }
    )
    lines = header(load(described), tmp_path / "s", "2 workers on cpu")
    assert lines[0].endswith(
        "study s   objective toy_objectives:value   sampler tpe   2 workers on cpu"
    )
    assert lines[1].startswith("knobs       knob_0 0..1   knob_1 0..1")
    assert all(len(line) <= 100 for line in lines[1:3]) and lines[2].startswith(" " * 12)
    assert lines[3] == "fixed       gamma 0.900"
    assert lines[4].startswith(
        "budget      1 trial x 3 seeds, none begins after 20m00s, until 5 in"
    )
    assert lines[4].endswith(f"folder {tmp_path / 's'}")


def test_the_end_of_a_study_without_a_result_says_so(mlruns: Path) -> None:
    from studies import opened

    from hpo.result import read

    study = opened(mlruns)
    study.close()
    assert closing(read(study.folder))[1].startswith("no trial has completed yet   folder ")


@pytest.mark.usefixtures("quick")
def test_the_end_tells_best_start_hold_out_places_and_what_comes_next(
    mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies import run

    monkeypatch.chdir(mlruns.parent)
    monkeypatch.delenv("HPO_MLRUNS", raising=False)
    space = {"x": {"low": 0, "high": 1, "start": 0.01}}
    result = run(mlruns, "held_out", space=space, sampler="random", trials=4)
    best, start = result.ranked[0], result.start
    assert start is not None and start.value is not None and best.number != 0
    tracked = result.spec.model_copy(
        update={"mlflow": True, "budget": result.spec.budget.model_copy(update={"trials": 9})}
    )
    assert closing(replace(result, spec=tracked)) == [
        "",
        f"best      trial {best.number}, val_loss {number(best.value)}"
        f" (start values reached {number(start.value)})",
        f"hold-out  {number(best.holdout)} (start values {number(start.holdout)}):"
        " what trials are ranked by",
        "ended     after 4 of 9 trials   continue:  hpo run --resume --name s",
        "schedule  mlruns/studies/s/schedule.json",
        "mlflow    mlruns/mlflow.db",
        "next      hpo schedule      look at what was discovered",
        "          hpo show          every trial",
        "          hpo ui            compare the runs in MLflow",
    ]
