"""A study whose driver and workers are killed at random moments ends as if nothing had been."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from studies import children, outcomes, until

from hpo.result import open_study

COMMAND = [sys.executable, "-c", "from hpo.cli import main; main()", "run", "-q", "--name", "s"]
START = [
    *("--objective", "fashion_mnist", "--set", "objective_options.train_rows=500"),
    *("--sampler", "tpe", "--trials", "12", "--workers", "2", "--steps", "100"),
]
KILLS = 6


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_with_every_trial_and_every_metric_once(
    tmp_path: Path,
) -> None:
    dice = random.Random(20)
    mark = f"CHAOS={uuid.uuid4().hex}"
    environment = {**os.environ, "CHAOS": mark[6:]}
    kills, resumes, ended = 0, 0, None
    while ended is None:
        more = ["--resume"] if (tmp_path / "mlruns/studies/s/spec.yaml").exists() else START
        driver = subprocess.Popen(
            [*COMMAND, *more], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
        )
        resumes += 1
        while kills < KILLS and driver.poll() is None:
            wait(driver, dice.uniform(1, 6))
            workers = children(driver.pid)
            if workers and dice.random() < 0.5:
                kill(dice.choice(workers))
            else:
                kill(driver.pid)
                driver.wait()
            kills += 1
        if driver.wait() != -signal.SIGKILL:
            ended = driver.returncode
        until(lambda: not marked(mark), 2)
    assert (ended, kills) == (0, KILLS) and resumes > 1
    result = open_study("s", tmp_path / "mlruns")
    assert outcomes(result) == ["complete"] * 12
    check_mlflow(tmp_path / "mlruns" / "mlflow.db")
    assert not list(result.folder.path.glob("trials/*/*.pt"))


def check_mlflow(database: Path) -> None:
    """One finished run a trial with its whole curve, every metric once, and nothing running."""
    with sqlite3.connect(database) as connection:
        ask = connection.execute
        runs = Counter(status for (status,) in ask("select status from runs"))
        assert runs == {"FINISHED": 13}  # the study and its trials: each went on from a checkpoint
        several = ask(
            "select run_uuid, key, step, count(*) from metrics"
            " group by run_uuid, key, step having count(*) > 1"
        ).fetchall()
        assert not several
        curves = ask(
            "select run_uuid, count(*) from metrics where key = 'val_loss' group by run_uuid"
        ).fetchall()
        assert len(curves) == 13 and len({count for _, count in curves}) == 1
        ends = ask("select count(*) from metrics where key = 'final/val_loss'").fetchone()
        assert ends == (12,)
    connection.close()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait(driver: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """The live processes that have the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
