"""Figures for people (Markdown tables) and for later comparison (JSON)."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

_SET_BY_ENGINES = ("MALLOC_", "GOMP_", "OMP_", "MKL_", "OPENBLAS_")


@dataclass(frozen=True)
class Row:
    """A figure, what it must reach, and whether it does."""

    figure: str
    measured: str
    target: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, str, str, str]:
        verdict = "" if self.met is None else "met" if self.met else "not met"
        return self.figure, self.measured, self.target, verdict


@dataclass(frozen=True)
class Report:
    """What one part found: tables for people, the figures with targets, and all numbers."""

    tables: Sequence[str]
    rows: Sequence[Row]
    data: Mapping[str, Any] = field(default_factory=dict)
    runs: Sequence[Mapping[str, Any]] = ()


class Interval(NamedTuple):
    """A middle and the bounds of its 95 % confidence interval; nan where too little is known."""

    middle: float
    low: float
    high: float

    def shown(self, digits: int) -> str:
        if math.isnan(self.low):
            return f"{self.middle:.{digits}f}"
        return f"{self.middle:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean_interval(values: Iterable[float]) -> Interval:
    """The mean, and its interval by Student's t."""
    from scipy.stats import t

    values = list(values)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    reach = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - reach, mean + reach)


def median_interval(values: Iterable[float]) -> Interval:
    """The median, and its interval between two order statistics, whatever the distribution."""
    from scipy.stats import binom

    ordered = sorted(values)
    middle, count = statistics.median(ordered), len(ordered)
    below = int(binom.ppf(0.025, count, 0.5))
    if below < 1:
        return Interval(middle, math.nan, math.nan)
    return Interval(middle, ordered[below - 1], ordered[count - below])


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def show(part: str, report: Report, quick: bool) -> None:
    """Prints a part's tables and verdicts under its name."""
    print(f"\n## {part}\n")
    for shown in report.tables:
        print(shown + "\n")
    print(verdicts(report.rows, quick), flush=True)


def verdicts(rows: Sequence[Row], quick: bool) -> str:
    """The figures that have a target; in a quick run, too small to reach it, without a verdict."""
    columns = 2 if quick else 4
    header = ("figure", "measured", "target", "")[:columns]
    return table(header, [row.cells()[:columns] for row in rows])


def write(path: Path, settings: Mapping[str, Any], report: Report) -> None:
    """Everything, with what is needed to repeat it; one run to a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "format": 1,
        "command": ["python", *sys.argv],
        "settings": dict(settings),
        "machine": _machine(),
        "rows": [asdict(row) for row in report.rows],
        "data": dict(report.data),
    }
    runs = ",\n  ".join(json.dumps(run) for run in report.runs)
    text = json.dumps(head, indent=1).removesuffix("\n}")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f'{text},\n "runs": [\n  {runs}\n ]\n}}\n')
    unfinished.replace(path)


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "optuna", "numpy", "hpo-schedules")},
        "environment": {k: v for k, v in os.environ.items() if k.startswith(_SET_BY_ENGINES)},
    }
