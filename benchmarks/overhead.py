"""What running a study costs beside plain Optuna, with trials that cost nothing themselves.

    python benchmarks/overhead.py [--quick] [--repeats N]

Prints Markdown tables and writes benchmarks/results/overhead.json. All figures come from one run,
repeats are interleaved, medians are told. CPU time is user and system time of a process and its
children, so worker processes count; memory is that of the driver alone. Compared are

raw          a plain script: study.optimize, JournalStorage(JournalFileBackend), five floats
hpo, 0       hpo run --workers 0 --no-mlflow: trials in the driver's process
hpo, 1       hpo run --workers 1 --no-mlflow: trials in a worker process, as by default
memory       for TPE also both with Optuna's storage in memory instead of a journal file
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from _measure import HERE, Sample, interleaved, median
from _trivial import KNOBS

SIZES = (100, 1000, 5000)
QUICK = (50, 100, 200)
START = "start"


@dataclass(frozen=True)
class Row:
    """A line of a table: a figure, what it must reach, and whether it does."""

    figure: str
    measured: str
    target: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, str, str, str]:
        verdict = "" if self.met is None else "met" if self.met else "not met"
        return self.figure, self.measured, self.target, verdict


@dataclass(frozen=True)
class Plan:
    """Numbers of trials: those of the random study, and that of the TPE study."""

    sizes: tuple[int, int, int]
    tpe: int
    repeats: int


def main() -> None:
    plan = _plan()
    taken = interleaved(_cases(plan), plan.repeats)
    starts = interleaved(_starts(), 2 * plan.repeats + 1)
    found = {name: median(samples) for name, samples in {**taken, **starts}.items()}
    tracked = _tracked(plan)
    rows = [*_ratios(found, plan), *_start_rows(found), _tracking_row(tracked)]
    print(_random_table(found, plan))
    print()
    print(_table(("figure", "measured", "target", ""), [row.cells() for row in rows]))
    _write(plan, {**taken, **starts}, tracked, rows)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--repeats", type=int, help="runs of each case (3)")
    given = parser.parse_args()
    repeats = given.repeats or (1 if given.quick else 3)
    return Plan(QUICK, 100, repeats) if given.quick else Plan(SIZES, 1000, repeats)


# -- what is run ----------------------------------------------------------------------------------


def _cases(plan: Plan) -> dict[str, Sequence[str]]:
    cases: dict[str, Sequence[str]] = {}
    for trials in plan.sizes:
        cases[f"random raw {trials}"] = ("raw", "random", "journal", str(trials))
        for workers in (0, 1):
            cases[f"random hpo,{workers} {trials}"] = _hpo_run("random", trials, workers)
    cases["tpe raw memory"] = ("raw", "tpe", "memory", str(plan.tpe))
    cases["tpe hpo,0 memory"] = ("memory", *_hpo_run("tpe", plan.tpe, 0)[1:])
    cases["tpe raw journal"] = ("raw", "tpe", "journal", str(plan.tpe))
    cases["tpe hpo,0 journal"] = _hpo_run("tpe", plan.tpe, 0)
    return cases


def _hpo_run(sampler: str, trials: int, workers: int) -> Sequence[str]:
    options = {
        "--objective": "_trivial:sphere",
        "--sampler": sampler,
        "--trials": str(trials),
        "--workers": str(workers),
    }
    knobs = [f"space.{knob}={{low: -1, high: 1}}" for knob in KNOBS]
    sets = [part for knob in knobs for part in ("--set", knob)]
    return ("hpo", "run", "--no-mlflow", *[x for pair in options.items() for x in pair], *sets)


def _starts() -> dict[str, Sequence[str]]:
    return {f"{START} --help": ("hpo", "--help"), f"{START} list": ("hpo", "list")}


def _tracked(plan: Plan) -> dict[str, float]:
    from _mlflow import Load, measure

    load = Load(5, 10, 20) if plan.sizes == QUICK else Load()
    found: dict[str, float] = measure(load, plan.repeats)
    return found


# -- what is told ---------------------------------------------------------------------------------


def _random_table(found: Mapping[str, Sample], plan: Plan) -> str:
    header = ["random, journal file", *(f"{trials} trials" for trials in plan.sizes)]
    names = {"raw": "raw Optuna", "hpo,0": "hpo run --workers 0", "hpo,1": "hpo run --workers 1"}
    lines = []
    for key, label in names.items():
        samples = [found[f"random {key} {trials}"] for trials in plan.sizes]
        lines.append([f"{label}: CPU s (wall s)", *(f"{s.cpu:.2f} ({s.wall:.2f})" for s in samples)])
        lines.append(
            [f"{label}: CPU ms a further trial", "", *map(_ms, _marginals(found, key, plan))]
        )
        lines.append([f"{label}: peak MiB of the driver", *(f"{s.peak_mib:.0f}" for s in samples)])
    return _table(header, lines)


def _ratios(found: Mapping[str, Sample], plan: Plan) -> list[Row]:
    middle = plan.sizes[1]
    rows = []
    for workers, where in ((0, "in the driver's process"), (1, "one worker process")):
        ratio = (
            found[f"random hpo,{workers} {middle}"].cpu / found[f"random raw {middle}"].cpu
        )
        rows.append(_at_most(f"CPU against raw Optuna, random, {middle} trials, {where}", ratio, 1.25))
    for workers, where in ((0, "in the driver's process"), (1, "one worker process")):
        rows += _growth(found, plan, workers, where)
    memory = found["tpe hpo,0 memory"].cpu / found["tpe raw memory"].cpu
    journal = found["tpe hpo,0 journal"].cpu / found["tpe raw journal"].cpu
    rows.append(_at_most(f"CPU against raw Optuna, TPE in memory, {plan.tpe} trials", memory, 1.05))
    rows.append(Row(f"the same over a journal file: hpo run --workers 0", f"{journal:.2f}x"))
    return rows


def _growth(found: Mapping[str, Sample], plan: Plan, workers: int, where: str) -> list[Row]:
    """CPU and memory of a further trial, early and late, beyond what Optuna's own takes."""
    raw, ours = _marginals(found, "raw", plan), _marginals(found, f"hpo,{workers}", plan)
    early, late = (mine - theirs for mine, theirs in zip(ours, raw, strict=True))
    last, first = plan.sizes[-1], plan.sizes[0]
    grown = {
        key: found[f"random {key} {last}"].peak_mib - found[f"random {key} {first}"].peak_mib
        for key in ("raw", f"hpo,{workers}")
    }
    beyond = (grown[f"hpo,{workers}"] - grown["raw"]) * 1024 / (last - first)
    return [
        Row(
            f"CPU of a further trial beyond Optuna's, early, late, {where}",
            f"{_ms(early)}, {_ms(late)} ms",
            "no growth",
            late <= early + 0.1 * raw[0],
        ),
        Row(
            f"driver's memory of a further trial beyond Optuna's, {where}",
            f"{beyond:.2f} KiB",
            "<= 0.25 KiB",
            beyond <= 0.25,
        ),
    ]


def _marginals(found: Mapping[str, Sample], key: str, plan: Plan) -> tuple[float, float]:
    """CPU seconds of one more trial: between the first two sizes, and between the last two."""
    few, some, many = (found[f"random {key} {trials}"].cpu for trials in plan.sizes)
    a, b, c = plan.sizes
    return (some - few) / (b - a), (many - some) / (c - b)


def _start_rows(found: Mapping[str, Sample]) -> list[Row]:
    rows = []
    for command in ("--help", "list"):
        sample = found[f"{START} {command}"]
        measured = f"{sample.wall:.2f} s wall, {sample.cpu:.2f} s CPU"
        needed = command == "--help"
        rows.append(
            Row(
                f"start-up of hpo {command}",
                f"{measured}, loads {', '.join(sample.loaded) or 'none of the heavy packages'}",
                "< 0.3 s, none" if needed else "",
                (sample.wall < 0.3 and not sample.loaded) if needed else None,
            )
        )
    return rows


def _tracking_row(tracked: Mapping[str, float]) -> Row:
    share = tracked["ours_cpu_s"] / tracked["naive_cpu_s"]
    return Row(
        f"MLflow, {tracked['runs']} runs of {tracked['params']} params and {tracked['metrics']}"
        " metrics: CPU against one call a value",
        f"1/{1 / share:.0f} ({tracked['ours_cpu_s']:.2f} s of {tracked['naive_cpu_s']:.2f} s)",
        "<= 1/8",
        share <= 1 / 8,
    )


def _at_most(figure: str, ratio: float, target: float) -> Row:
    return Row(figure, f"{ratio:.2f}x", f"<= {target:g}x", ratio <= target)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _write(
    plan: Plan,
    taken: Mapping[str, Sequence[Sample]],
    tracked: Mapping[str, float],
    rows: Sequence[Row],
) -> None:
    """Every sample, so that a later run can be compared with this one."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    told = {
        "format": 1,
        "plan": asdict(plan),
        "machine": {
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "system": platform.platform(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("optuna", "mlflow")},
        },
        "samples": {name: [asdict(s) for s in samples] for name, samples in taken.items()},
        "mlflow": dict(tracked),
        "rows": [asdict(row) for row in rows],
    }
    (results / "overhead.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
