"""Runs programs in fresh processes and takes their time and memory, children included."""

from __future__ import annotations

import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
# One thread for everyone: with more, idle threads that spin would count as work.
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


@dataclass(frozen=True)
class Sample:
    """One run: user and system time of the process and its children, wall time, peak memory."""

    cpu: float
    wall: float
    peak_mib: float
    loaded: Sequence[str] = ()


_MARK = "HPO_BENCHMARK_ENVIRONMENT"


def as_a_worker() -> None:
    """Starts the running script again as workers of this project are: threads, allocator."""
    if os.environ.get(_MARK):
        return
    from hpo.engines import Slots
    from hpo.engines._devices import environments

    theirs = environments(Slots(workers=1))[0]
    environment = {**os.environ, **theirs, **ONE_THREAD, _MARK: "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def compile_ours() -> None:
    """Writes the bytecode of our packages, as an installer does: without it a working copy may be
    compiled anew at every start, and Optuna is not."""
    for name in ("hpo", "objectives", "search_spaces"):
        package = find_spec(name)
        for folder in (package and package.submodule_search_locations) or ():
            compileall.compile_dir(folder, quiet=1)


def run(arguments: Sequence[str]) -> Sample:
    """A program of `_programs.py`, in a folder of its own that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, str(HERE / "_programs.py"), str(report), *arguments]
        cpu, wall = timed(command, Path(folder))
        said = json.loads(report.read_text())
    return Sample(cpu, wall, said["peak_mib"], said["loaded"])


def timed(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of a command. Raises RuntimeError with its output if it fails."""
    log = folder / "output.txt"
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env={**os.environ, **ONE_THREAD}
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return used.ru_utime + used.ru_stime, wall


def interleaved(cases: Mapping[str, Sequence[str]], repeats: int) -> dict[str, list[Sample]]:
    """Every case once, then every case again: what disturbs the machine disturbs all alike."""
    taken: dict[str, list[Sample]] = {name: [] for name in cases}
    for repeat in range(repeats):
        for name, arguments in cases.items():
            taken[name].append(run(arguments))
            sample = taken[name][-1]
            print(
                f"{repeat + 1}/{repeats}  {name:34} {sample.cpu:7.2f} s CPU  {sample.wall:7.2f} s"
                f"  {sample.peak_mib:5.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
    return taken


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each figure."""
    return Sample(
        statistics.median(sample.cpu for sample in samples),
        statistics.median(sample.wall for sample in samples),
        statistics.median(sample.peak_mib for sample in samples),
        sorted({name for sample in samples for name in sample.loaded}),
    )
