"""Whether a further trial costs the driver more the more trials there are: time and memory.

    python benchmarks/scale.py [--quick] [--postgresql URL] [--results FOLDER]

Trials that cost nothing go through Study.ask, observe and tell in one process, without workers;
each case runs in a fresh process. Told for every part of a study are the median CPU time of an
ask and of observe and tell together, and the memory that the process holds at the end of it. With a
URL of a PostgreSQL database, which must not hold studies of these names, the ledger is kept there
as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _measure import HERE
from _report import Report, Row, table, write
from _trivial import KNOBS

PARTS = 10  # in which a study is told, at most
GROWTH = 1.5  # how much more the last part of a study may cost than the second


@dataclass(frozen=True)
class Case:
    """A study: its sampler, where its ledger lies, how many trials it has."""

    sampler: str
    ledger: str
    trials: int

    @property
    def name(self) -> str:
        return f"{self.sampler}, {self.ledger}"


@dataclass(frozen=True)
class Part:
    """A stretch of a study up to trial `until`: CPU milliseconds of a trial, memory at its end."""

    until: int
    ask_ms: float
    tell_ms: float
    memory_mib: float


CASES = (
    Case("random", "journal", 10_000),
    Case("tpe", "journal", 10_000),
    Case("random", "PostgreSQL", 2000),
    Case("tpe", "PostgreSQL", 2000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the trials")
    parser.add_argument("--postgresql", metavar="URL", help="a database to keep ledgers in")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps([asdict(part) for part in measured(Case(**json.loads(options.case)))]))
        return
    found: dict[Case, list[Part]] = {}
    for case in CASES:
        if case.ledger == "PostgreSQL" and not options.postgresql:
            continue
        url = options.postgresql if case.ledger == "PostgreSQL" else "journal"
        trials = case.trials // 50 if options.quick else case.trials
        found[case] = _apart(Case(case.sampler, url, trials))
        print(_table(case, found[case]) + "\n", flush=True)
    report = Report([], [_verdict(case, parts) for case, parts in found.items()], {}, _runs(found))
    write(options.results / f"scale{'-quick' if options.quick else ''}.json", {}, report)
    print(table(("", "", "target", ""), [row.cells() for row in report.rows]))


def measured(case: Case) -> Iterator[Part]:
    """Runs a study in this process."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _parts(case, _study(case, Path(folder)))


def _study(case: Case, mlruns: Path) -> Any:
    from hpo.folder import create
    from hpo.opening import open_for_driving
    from hpo.preparation import Launch, prepare, spec_from_keywords

    spec = spec_from_keywords(
        name=f"scale-{case.sampler}",
        objective=f"{HERE / '_trivial.py'}:sphere",
        space={knob: {"low": -1.0, "high": 1.0} for knob in KNOBS},
        sampler=case.sampler,
        trials=case.trials,
        workers=0,
        mlflow=False,
        **({} if case.ledger == "journal" else {"storage": case.ledger}),
    )
    _, folder, problem = prepare(spec, Launch(mlruns))
    create(spec.name, mlruns)
    return open_for_driving(problem, folder)


def _parts(case: Case, study: Any) -> Iterator[Part]:
    from hpo.trial import Outcome
    from objectives.training.measurement import Measurement

    asks: list[float] = []
    tells: list[float] = []
    length = max(case.trials // PARTS, 1)
    study.begin()
    for number in range(case.trials):
        study.tick()
        began = time.process_time()
        plan = study.ask()
        asked = time.process_time()
        point = plan.schedule.at(0.0)
        value = sum(x * x for x in point.values())
        measurement = Measurement(1, 1.0, {"val_loss": value}, point, {})
        ready = time.process_time()
        study.observe(number, measurement)
        study.tell(number, Outcome("complete"))
        tells.append(time.process_time() - ready)
        asks.append(asked - began)
        if (number + 1) % length == 0:
            yield Part(number + 1, _median_ms(asks), _median_ms(tells), _memory())
            asks.clear()
            tells.clear()
    study.close()


def _median_ms(seconds: list[float]) -> float:
    return round(1000 * statistics.median(seconds), 3)


def _memory() -> float:
    """What this process holds now, in MiB."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def _apart(case: Case) -> list[Part]:
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [Part(**part) for part in json.loads(done.stdout)]


def _table(case: Case, parts: list[Part]) -> str:
    lines = [
        [f"{p.until}", f"{p.ask_ms:.2f}", f"{p.tell_ms:.2f}", f"{p.memory_mib:.0f}"] for p in parts
    ]
    return table([f"{case.name}: up to trial", "ask, CPU ms", "tell, CPU ms", "MiB"], lines)


def _verdict(case: Case, parts: list[Part]) -> Row:
    early, late = (part.ask_ms + part.tell_ms for part in (parts[1], parts[-1]))
    memory = 1024 * (parts[-1].memory_mib - parts[1].memory_mib)
    each = memory / (parts[-1].until - parts[1].until)
    said = f"{early:.2f} ms, {late:.2f} ms; {each:.1f} KiB a trial"
    return Row(f"{case.name}: early, late", said, f"{GROWTH:g}x at most", late <= GROWTH * early)


def _runs(found: dict[Case, list[Part]]) -> list[dict[str, Any]]:
    return [
        {"case": asdict(case), "parts": [asdict(part) for part in parts]}
        for case, parts in found.items()
    ]


if __name__ == "__main__":
    main()
