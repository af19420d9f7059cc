"""Trials that hang: when they count as lost, and when only the driver was away."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from studies import X, alive, events, outcomes, run, spec

from hpo.engines._silence import LEAST, Silence
from hpo.errors import NothingSucceeded
from hpo.launch import launch
from hpo.preparation import Launch
from hpo.result import open_study


class Clock:
    """A clock that a test moves; someone looks at it every half second, unless he is away."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float, silence: Silence) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            silence.lost()


def silent(limit: float | None = None) -> tuple[Silence, Clock]:
    clock = Clock()
    return Silence(limit, clock), clock


# -- the rule -------------------------------------------------------------------------------------


def test_a_trial_is_lost_once_it_is_silent_for_longer_than_was_said() -> None:
    silence, clock = silent(5)
    silence.begin(0)
    silence.begin(1)
    clock.pass_by(4, silence)
    silence.heard(1)
    clock.pass_by(2, silence)
    assert silence.lost() == [0]
    silence.end(0)
    assert silence.lost() == []


def test_without_a_limit_no_trial_is_lost_before_one_has_come_to_its_end() -> None:
    silence, clock = silent()
    silence.begin(0)
    clock.pass_by(2, silence)
    silence.heard(0)
    clock.pass_by(10 * LEAST, silence)  # its evaluation at the end
    assert silence.limit is None and silence.lost() == []


def test_the_limit_is_twenty_times_the_longest_wait_of_a_whole_trial() -> None:
    silence, clock = silent()
    silence.begin(0)
    clock.pass_by(100, silence)  # a first measurement that took long
    silence.heard(0)
    silence.end(0, complete=True)
    assert silence.limit == 2000
    silence.begin(1)
    clock.pass_by(1999, silence)
    assert silence.lost() == []
    clock.pass_by(2, silence)
    assert silence.lost() == [1]


def test_the_limit_is_ten_minutes_at_least_and_pruned_trials_do_not_make_it() -> None:
    silence, clock = silent()
    for trial, complete in ((0, False), (1, True)):
        silence.begin(trial)
        clock.pass_by(1, silence)
        silence.heard(trial)
        silence.end(trial, complete=complete)
        assert silence.limit == (LEAST if complete else None)


@pytest.mark.parametrize("away", [30.0, 86400.0])
def test_a_driver_that_was_away_does_not_blame_the_trials(away: float) -> None:
    silence, clock = silent(20)
    silence.begin(0)
    clock.pass_by(3, silence)
    clock.now += away
    assert silence.lost() == []
    clock.pass_by(14, silence)
    assert silence.lost() == []
    clock.pass_by(2, silence)
    assert silence.lost() == [0]


# -- in a pool of processes -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "no_process_left")
@pytest.mark.parametrize("how", ["sleeps", "stops"])
def test_a_worker_that_hangs_is_killed_and_its_trial_goes_again(
    mlruns: Path, marks: Path, how: str
) -> None:
    options = {"folder": str(marks), "how": how}
    result = run(
        mlruns, "hangs", trials=2, workers=1, space=X, silence="2s", objective_options=options
    )
    assert outcomes(result) == ["complete"] * 2
    (again,) = result.records[0].attempts
    assert again["reason"] == "lost" and again["step"] == 1
    assert again["message"] == "it gave no sign of life for 2 s (silence)"
    assert not any(alive(pid) for pid in hung(marks))


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "no_process_left")
def test_a_trial_that_always_hangs_fails_with_the_sentence(mlruns: Path, marks: Path) -> None:
    options = {"folder": str(marks), "times": 10}
    with pytest.raises(NothingSucceeded, match="it gave no sign of life for 1 s"):
        run(
            mlruns, "hangs", trials=1, workers=1, space=X, silence="1s", retries=1,
            objective_options=options,
        )  # fmt: skip
    (record,) = open_study("s", mlruns).records
    assert (record.state, record.reason, len(record.attempts)) == ("failed", "lost", 1)
    assert len(hung(marks)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "no_process_left")
def test_a_driver_that_was_stopped_goes_on_with_its_trials(mlruns: Path, marks: Path) -> None:
    """Ctrl-Z for longer than the silence allowed: nothing is lost, nothing runs twice."""
    seconds = 4
    waker = [sys.executable, "-c", f"import os, time; time.sleep({seconds}); os.kill(%d, 18)"]
    waker[2] %= os.getpid()
    sleeper: list[subprocess.Popen[bytes]] = []

    def stops(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and not sleeper:
            sleeper.append(subprocess.Popen(waker))
            os.kill(os.getpid(), signal.SIGSTOP)

    options = {"folder": str(marks), "steps": 5}
    described = spec(
        "steady", trials=2, workers=2, space=X, silence="3s", objective_options=options
    )
    result = launch(described, Launch(mlruns, sinks=(stops,)))
    sleeper[0].wait()
    assert outcomes(result) == ["complete"] * 2
    assert not events(result, "retry")
    assert len(list(marks.glob("begun-*"))) == 2


def hung(marks: Path) -> list[int]:
    """The processes that hung."""
    return [int(path.name.rpartition("-")[2]) for path in marks.glob("hung-*")]
