"""Worker processes: what becomes of trials, files and processes when objectives and drivers die."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from studies import OBJECTIVES, X, alive, children, events, outcomes, resume, run, table, until

from hpo.errors import NothingSucceeded
from hpo.ledger import TrialRecord
from hpo.result import Result, open_study

pytestmark = pytest.mark.usefixtures("quick", "no_process_left")


def failing(mlruns: Path, objective: str, **keywords: Any) -> TrialRecord:
    with pytest.raises(NothingSucceeded):
        run(mlruns, objective, **{"workers": 1, "trials": 1, "space": X, **keywords})
    return open_study("s", mlruns).records[0]


def log(mlruns: Path, worker: int = 0) -> Path:
    return mlruns / "studies" / "s" / f"worker-{worker}.log"


# -- two at once ----------------------------------------------------------------------------------


def test_two_workers_run_at_the_same_time(mlruns: Path, marks: Path) -> None:
    options = {"folder": str(marks)}
    result = run(mlruns, "together", trials=2, workers=2, space=X, objective_options=options)
    assert outcomes(result) == ["complete", "complete"]
    assert len({r.worker for r in result.records}) == 2


def test_no_more_workers_start_than_there_are_trials(mlruns: Path) -> None:
    run(mlruns, trials=2, workers=8)
    assert len(list((mlruns / "studies" / "s").glob("worker-*.log"))) <= 2


# -- misbehaving objectives -----------------------------------------------------------------------


def test_a_worker_that_exits_is_replaced_and_its_trial_fails_after_the_retries(
    mlruns: Path,
) -> None:
    record = failing(mlruns, "dies", retries=1)
    assert (record.reason, len(record.attempts)) == ("lost", 1)
    assert record.message == "the worker ended with exit code 7 in the middle of the trial"


def test_an_objective_that_raises_keyboardinterrupt_fails_and_does_not_stop_the_study(
    mlruns: Path,
) -> None:
    record = failing(mlruns, "interrupts_itself")
    assert record.reason == "error" and "KeyboardInterrupt" in record.message


def test_what_an_objective_prints_is_kept_in_a_log_of_bounded_size(mlruns: Path) -> None:
    result = run(mlruns, "prints", trials=1, workers=1, space=X)
    assert outcomes(result) == ["complete"]
    assert log(mlruns).stat().st_size < 11_000_000
    assert log(mlruns).read_text().endswith("the last line\n")


def test_a_thread_that_never_ends_does_not_hold_the_study(mlruns: Path) -> None:
    begun = time.monotonic()
    assert outcomes(run(mlruns, "leaves_thread", workers=1, space=X)) == ["complete"] * 4
    assert time.monotonic() - begun < 4


def pids(marks: Path) -> list[int]:
    return [int((marks / name).read_text()) for name in ("child", "other")]


def test_processes_that_an_objective_leaves_are_gone_after_the_study(
    mlruns: Path, marks: Path
) -> None:
    options = {"folder": str(marks)}
    result = run(mlruns, "leaves_process", trials=1, workers=1, space=X, objective_options=options)
    assert outcomes(result) == ["complete"]
    until(lambda: not any(map(alive, pids(marks))), 2)


def test_the_death_of_a_worker_is_noticed_though_its_child_holds_the_line_open(
    mlruns: Path, marks: Path
) -> None:
    begun = time.monotonic()
    options = {"folder": str(marks), "dies": True}
    record = failing(mlruns, "leaves_process", retries=0, objective_options=options)
    assert record.message == "the worker ended with exit code 9 in the middle of the trial"
    assert time.monotonic() - begun < 6
    until(lambda: not any(map(alive, pids(marks))), 2)


def test_an_error_while_cleaning_up_after_pruning_fails_the_trial(
    mlruns: Path, marks: Path
) -> None:
    options = {"folder": str(marks)}
    prune = {"threshold": {"upper": 0.5}}
    record = failing(mlruns, "fails_to_close", objective_options=options, prune=prune)
    assert record.message.startswith("OSError: no space to clean up")


def test_files_of_the_users_named_like_modules_do_not_break_a_worker(
    mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "optuna.py", "objectives/__init__.py", "hpo/__init__.py"):
        shadow = tmp_path / "cwd" / name
        shadow.parent.mkdir(parents=True, exist_ok=True)
        shadow.write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path / "cwd")
    assert outcomes(run(mlruns, trials=1, workers=1)) == ["complete"]


# -- memory ---------------------------------------------------------------------------------------


def test_more_memory_than_allowed_is_out_of_memory_and_not_the_end_of_the_machine(
    mlruns: Path,
) -> None:
    options = {"gibibytes": 8}
    record = failing(mlruns, "allocates", memory_per_trial="2GiB", objective_options=options)
    assert (record.reason, record.message) == ("oom", "MemoryError")
    assert [a["reason"] for a in record.attempts] == ["oom"]


@pytest.mark.parametrize("how", ["python", "torch"])
def test_a_trial_out_of_memory_is_run_again_alone(mlruns: Path, marks: Path, how: str) -> None:
    options = {"folder": str(marks), "above": 0.6, "how": how}
    result = run(
        mlruns, "out_of_memory", trials=8, workers=3, space=X, sampler="random", seed=3,
        objective_options=options,
    )  # fmt: skip
    assert outcomes(result) == ["complete"] * 8
    (again,) = [r for r in result.records if r.attempts]
    x = again.coordinates["x"]
    first, second = sorted(marks.glob(f"x-{x}-*"), key=lambda path: path.stat().st_mtime_ns)
    assert second.name.startswith(f"x-{x}-at-once-1-")
    assert len(list(marks.glob("x-*-at-once-[23]-*"))) > 0
    assert events(result, "retry")[0]["reason"] == "oom"
    assert first != second


def test_a_second_time_out_of_memory_fails_the_trial(mlruns: Path, marks: Path) -> None:
    options = {"folder": str(marks), "times": 2}
    result = run(mlruns, "out_of_memory", trials=2, workers=1, space=X, objective_options=options)
    assert [(r.state, r.reason) for r in result.records] == [("failed", "oom"), ("complete", "")]


# -- lost workers ---------------------------------------------------------------------------------


def test_a_function_whose_worker_is_killed_begins_again_as_a_new_attempt(
    mlruns: Path, marks: Path
) -> None:
    options = {"folder": str(marks), "at": [3]}
    result = run(mlruns, "killed", trials=2, workers=1, space=X, objective_options=options)
    assert [(r.value, r.state) for r in result.records] == [(0.2, "complete")] * 2
    (attempt,) = result.records[0].attempts
    assert (attempt["reason"], attempt["step"], attempt["attempt"]) == ("lost", 2, 0)
    assert attempt["message"] == "the worker was killed by SIGKILL"
    ends = [(e["trial"], e["attempt"], e["outcome"]) for e in events(result, "end")]
    assert ends == [(0, 0, "failed"), (0, 1, "complete"), (1, 0, "complete")]
    steps = [(e["attempt"], e["step"]) for e in events(result, "measurement") if e["trial"] == 0]
    assert steps == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]


def test_killed_again_and_again_at_one_step_it_fails(mlruns: Path, marks: Path) -> None:
    options = {"folder": str(marks), "at": [3] * 9}
    record = failing(mlruns, "killed", retries=2, objective_options=options)
    assert (record.reason, len(record.attempts)) == ("lost", 2)


def test_killed_later_each_time_it_ends_well(mlruns: Path, marks: Path) -> None:
    options = {"folder": str(marks), "at": [2, 3, 4, 5]}
    result = run(
        mlruns, "killed", trials=1, workers=1, space=X, retries=1, objective_options=options
    )
    assert outcomes(result) == ["complete"]
    assert [a["step"] for a in result.records[0].attempts] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_task_whose_worker_is_killed_continues_from_its_checkpoint_bit_for_bit(
    mlruns: Path, marks: Path
) -> None:
    def fragile(name: str, workers: int, **options: Any) -> Result:
        return run(
            mlruns, "toy_fragile:Fragile", name=name, trials=1, workers=workers, space="l2",
            steps=12, training={"evaluations": 4},
            objective_options={"folder": str(marks), **options},
        )  # fmt: skip

    whole = fragile("whole", 0)
    killed = fragile("killed", 1, at=8)
    assert len(list(marks.glob("killed-*"))) == 1
    assert table(killed) == table(whole)
    assert [a["reason"] for a in killed.records[0].attempts] == ["lost"]
    for kind, count in (("start", 1), ("measurement", 4), ("end", 1)):
        assert len(events(killed, kind)) == count
    measured = [
        [(e["step"], e["metrics"]) for e in events(r, "measurement")] for r in (whole, killed)
    ]
    assert measured[0] == measured[1]


# -- the driver dies or is interrupted ------------------------------------------------------------


@contextmanager
def driver(mlruns: Path, objective: str, *options: str, **given: Any) -> Iterator[Any]:
    """`hpo run` of an objective with one knob, in a process of its own."""
    sets = [f"--set=objective_options.{key}={value}" for key, value in given.items()]
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from hpo.cli import main; main()"),
            *("run", "--mlruns", str(mlruns), "--name", "s", "--no-mlflow"),
            *("--objective", f"{OBJECTIVES}:{objective}", "--set=space.x.low=0"),
            *("--set=space.x.high=1", *sets, *options),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def running(marks: Path, count: int = 1) -> None:
    until(lambda: len(list(marks.glob("running-*"))) >= count)


def test_workers_and_what_they_started_vanish_with_a_killed_driver(
    mlruns: Path, marks: Path
) -> None:
    with driver(mlruns, "leaves_process", "--trials=1", folder=marks) as process:
        until(lambda: (marks / "other").exists())
    # It may have been killed before or after the trial ended: then nothing is left either.
    until(lambda: not any(map(alive, pids(marks))), 2)
    with driver(mlruns / "2", "slow", "--trials=4", "--workers=2", folder=marks) as process:
        running(marks, 2)
        workers = children(process.pid)
        assert len(workers) == 2
    until(lambda: not any(map(alive, workers)), 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_running_trials_and_asks_for_no_more(
    mlruns: Path, marks: Path, number: signal.Signals
) -> None:
    with driver(mlruns, "slow", "--trials=8", "--workers=2", folder=marks) as process:
        running(marks, 2)
        process.send_signal(number)
        assert re.match("stopping: trial . is at ", line_with(process, "stopping"))
        assert process.poll() is None
        (marks / "go").touch()
        assert process.wait(10) == 130
        rest = process.stderr.read()
    assert "saved. 2 of 8 trials are done.  continue:  hpo run --resume --name s" in rest
    assert "Traceback" not in rest
    result = open_study("s", mlruns)
    assert outcomes(result) == ["complete"] * 2
    assert outcomes(resume(mlruns, trials=3)) == ["complete"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_drops_them_and_they_are_taken_up_later(
    mlruns: Path, marks: Path, number: signal.Signals
) -> None:
    with driver(mlruns, "slow", "--trials=2", "--workers=2", folder=marks) as process:
        running(marks, 2)
        workers = children(process.pid)
        process.send_signal(number)
        line_with(process, "stopping")
        process.send_signal(number)
        assert process.wait(5) == 130
        assert "saved. 0 of 2 trials are done." in process.stderr.read()
        until(lambda: not any(map(alive, workers)), 2)
    assert outcomes(open_study("s", mlruns)) == ["running", "running"]
    (marks / "go").touch()
    result = resume(mlruns)
    assert outcomes(result) == ["complete"] * 2
    lost = [e for e in events(result, "end") if e["outcome"] == "failed"]
    assert [e["message"] for e in lost] == ["the study was interrupted"] * 2


def test_an_interrupt_ends_a_trial_in_the_drivers_own_process_at_once(
    mlruns: Path, marks: Path
) -> None:
    with driver(mlruns, "slow", "--trials=2", "--workers=0", folder=marks) as process:
        running(marks)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert "saved. 0 of 2 trials are done." in process.stderr.read()
    (marks / "go").touch()
    assert outcomes(resume(mlruns)) == ["complete"] * 2


def test_hpo_stop_ends_a_study_in_another_process(mlruns: Path, marks: Path) -> None:
    with driver(mlruns, "slow", "--trials=100000", folder=marks) as process:
        running(marks)
        stop = [sys.executable, "-c", "from hpo.cli import main; main()", "stop", "s", "--json"]
        asked = subprocess.run(
            [*stop, "--mlruns", str(mlruns)], capture_output=True, text=True, check=True
        )
        assert json.loads(asked.stdout)["running"] is True
        (marks / "go").touch()
        assert process.wait(10) == 0
    assert 1 <= len(open_study("s", mlruns).records) < 100000


def line_with(process: Any, word: str) -> str:
    """The next line on stderr that holds a word."""
    while line := process.stderr.readline():
        if word in line:
            return str(line)
    raise AssertionError(f"no line with {word!r}")
