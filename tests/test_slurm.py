"""The script for Slurm, run whole: Slurm alone is played, by small commands of this machine."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from studies import events, until

from hpo.result import Result, open_study

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# The options of srun come first: drop them and the node's name, run what is left here.
COMMANDS = {
    "srun": 'while [ "$1" != -w ]; do shift; done; shift 2; exec "$@"',
    "scontrol": "printf 'one\\ntwo\\n'",
    "hostname": "echo 127.0.0.1",
}
STUDY = """\
name: job
objective: digits
space: regularization
sampler: random
budget: {{trials: {trials}, steps: {steps}}}
engine: ray
mlflow: false
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder to submit from, with what plays Slurm in bin/."""
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "slurm.sh").write_text((files("hpo") / "specs" / "slurm.sh").read_text())
    return tmp_path


def submitted(job: Path, trials: int, steps: int) -> subprocess.Popen[str]:
    (job / "study.yaml").write_text(STUDY.format(trials=trials, steps=steps))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    variables = {
        "PATH": f"{job / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "whatever[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_PORT": str(port),
        "RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": "0.01",
    }
    return subprocess.Popen(
        ["bash", "slurm.sh", "study.yaml"],
        cwd=job,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; whatever the job has left running is ended."""
    try:
        said, _ = process.communicate(timeout=180)
        return process.returncode, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def study(job: Path) -> Result:
    return open_study("job", job / "mlruns")


def workers(result: Result) -> set[str]:
    return {record.worker for record in result.records}


def test_a_job_is_saved_before_its_time_is_over_and_goes_on_when_submitted_again(job: Path) -> None:
    first = submitted(job, trials=4, steps=5_000)
    spool = job / "mlruns" / "studies" / "job" / "events.jsonl"

    def trains() -> Any:
        assert first.poll() is None, first.communicate()[0]
        return spool.exists() and '"event":"measurement"' in spool.read_text().replace(" ", "")

    until(trains, 120)
    first.send_signal(signal.SIGTERM)
    code, said = ended(first)
    assert code == 130, said
    assert "continue:  hpo run --resume --name job" in said
    begun = {event["trial"] for event in events(study(job), "start")}
    assert begun == {0, 1}  # a node each
    again = submitted(job, trials=2, steps=5_000)
    code, said = ended(again)
    assert code == 0, said
    result = study(job)
    assert [record.state for record in result.records] == ["complete"] * 2
    assert not any(record.attempts for record in result.records)
