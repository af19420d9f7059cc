"""Our hypergradients beside those of betty and torchopt, against a dense solve.

    python benchmarks/peers.py [--quick] [--results FOLDER]

Makes an environment of its own in benchmarks/.peers, once, with the same torch as this one, and
there measures all of them in one process, on one thread: relative error and CPU time of one
hypergradient at the inner optimum, where everyone is given x*. Nothing is measured, and nothing has
failed, where they cannot be installed.

Neumann series are given the best step, 1 over the greatest eigenvalue. Of betty its kernels are
called without the engine around them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _measure import HERE, ONE_THREAD
from _report import Report, Row, table, verdicts, write

PEERS = ("betty-ml", "torchopt")
OURS = ("scikit-learn",)  # what the measured problems are made from
FOLDER = HERE / ".peers"
NEAR = 1e-4  # the relative error at which the times of the methods are compared


class NotInstalled(Exception):
    """The last line that pip had to say."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one timing, without the network")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for JSON")
    options = parser.parse_args()
    try:
        python = installed()
    except NotInstalled as refusal:
        print(f"skipped: {' and '.join(PEERS)} cannot be installed here: {refusal}")
        return
    said = measured(python, options.quick)
    report = told(said)
    path = options.results / f"peers{'-quick' if options.quick else ''}.json"
    write(path, {**vars(options), "results": str(options.results)}, report)
    for shown in report.tables:
        print(shown + "\n")
    for name, why in said["failed"].items():
        print(f"{name} does not work here: {why}\n")
    for name, found in said["found"].items():
        # betty-ml 0.1.1 turns to its next direction with the residual of the step before.
        if max(error for error, _ in found.values()) > 1:
            print(f"{name} is further off than no gradient at all: it does not work here\n")
    print(verdicts(report.rows, options.quick))


def installed() -> Path:
    """The Python of an environment that has them. Raises NotInstalled."""
    python, ready = FOLDER / "bin" / "python", FOLDER / ".ready"
    torch = f"torch=={version('torch').partition('+')[0]}"
    wanted = "\n".join((torch, *PEERS, *OURS))
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"making {FOLDER}: some minutes and a gigabyte, once", file=sys.stderr, flush=True)
    constraints = HERE.parent / "constraints.txt"
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(FOLDER)],
        [str(python), "-m", "pip", "install", "-q", "-c", str(constraints), *wanted.split()],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise NotInstalled(lines[-1] if lines else f"{command[2]} ended {done.returncode}")
    ready.write_text(wanted)
    return python


def measured(python: Path, quick: bool) -> dict[str, Any]:
    """What `_peers_kernels.py` prints. Raises RuntimeError with its output if it fails."""
    command = [str(python), "-W", "ignore", str(HERE / "_peers_kernels.py")]
    command += ["--quick"] if quick else []
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def told(said: Mapping[str, Any]) -> Report:
    """Relative error and CPU milliseconds of every method on every problem."""
    conditions: Mapping[str, float] = said["conditions"]
    lines = []
    for name, found in said["found"].items():
        cells = [f"{error:.0e}, {1000 * cpu:.1f}" for error, cpu in found.values()]
        lines.append([name, *cells])
    header = [f"{name} (condition {value:.0f})" for name, value in conditions.items()]
    rows = []
    for problem in conditions:
        reached = [
            (found[problem][1], name)
            for name, found in said["found"].items()
            if found[problem][0] <= NEAR
        ]
        for who, whose in (("ours", True), ("theirs", False)):
            best = min((r for r in reached if r[1].startswith("ours") == whose), default=None)
            text = "never" if best is None else f"{1000 * best[0]:.1f} ms, {best[1]}"
            rows.append(Row(f"hypergradient to {NEAR:g}, {problem}, quickest of {who}", text))
    shown = table(["relative error, CPU ms", *header], lines)
    return Report([shown], rows, said)


if __name__ == "__main__":
    main()
