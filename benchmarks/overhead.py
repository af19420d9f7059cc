"""What running a study costs beside plain Optuna, with trials that cost nothing themselves.

    python benchmarks/overhead.py [--quick] [--repeats N]

Prints Markdown tables and writes benchmarks/results/overhead.json. All figures come from one run,
repeats are interleaved, medians are told; a ratio is the median of the ratios within each repeat.
CPU time is user and system time of a whole process and its children, start-up included, so worker
processes count; memory is the peak of the driver alone. Our packages are compiled to bytecode
first, as Optuna's were when it was installed. Compared are

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
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TypeAlias

from _measure import HERE, Sample, compile_ours, interleaved, median
from _report import Row, table, verdicts
from _trivial import KNOBS

SIZES = (100, 1000, 5000)
QUICK = (50, 100, 200)
START = "start"
PLACES = {0: "in the driver's process", 1: "one worker process"}

Taken: TypeAlias = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class Plan:
    """Numbers of trials: those of the random study, and that of the TPE study."""

    sizes: tuple[int, int, int]
    tpe: int
    repeats: int


def main() -> None:
    plan = _plan()
    compile_ours()
    taken = interleaved(_cases(plan), plan.repeats)
    taken |= interleaved(_starts(), 2 * plan.repeats + 1)
    tracked = _tracked(plan)
    rows = [*_ratios(taken, plan), *_start_rows(taken), _tracking_row(tracked)]
    print(_random_table(taken, plan))
    print()
    # Targets are for the full sizes: start-up is most of a quick run.
    print(verdicts(rows, plan.sizes == QUICK))
    _write(plan, taken, tracked, rows)


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
    for trials in (plan.sizes[0], plan.tpe):
        cases[f"tpe raw memory {trials}"] = ("raw", "tpe", "memory", str(trials))
        cases[f"tpe hpo,0 memory {trials}"] = ("memory", *_hpo_run("tpe", trials, 0)[1:])
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


def _random_table(taken: Taken, plan: Plan) -> str:
    header = ["random, journal file", *(f"{trials} trials" for trials in plan.sizes)]
    names = {"raw": "raw Optuna", "hpo,0": "hpo run --workers 0", "hpo,1": "hpo run --workers 1"}
    lines = []
    for key, label in names.items():
        samples = [median(taken[f"random {key} {trials}"]) for trials in plan.sizes]
        further = [
            statistics.median(part) for part in zip(*_further(taken, key, plan), strict=True)
        ]
        lines += [
            [f"{label}: CPU s (wall s)", *(f"{s.cpu:.2f} ({s.wall:.2f})" for s in samples)],
            [f"{label}: CPU ms a further trial", "", *map(_ms, further)],
            [f"{label}: peak MiB of the driver", *(f"{s.peak_mib:.0f}" for s in samples)],
        ]
    return table(header, lines)


def _ratios(taken: Taken, plan: Plan) -> list[Row]:
    few, some, _ = plan.sizes
    rows = []
    for workers, where in PLACES.items():
        ours, figure = f"random hpo,{workers}", f"CPU against raw Optuna, random, {some} trials"
        rows += [
            _at_most(f"{figure}, {where}", _ratio(taken, ours, "random raw", some), 1.25),
            _at_most("the same without start-up", _ratio(taken, ours, "random raw", some, few)),
        ]
    for workers, where in PLACES.items():
        rows += _growth(taken, plan, workers, where)
    ours, theirs = "tpe hpo,0 memory", "tpe raw memory"
    figure = f"CPU against raw Optuna, TPE in memory, {plan.tpe} trials, in the driver's process"
    return [
        *rows,
        _at_most(figure, _ratio(taken, ours, theirs, plan.tpe), 1.05),
        _at_most("the same without start-up", _ratio(taken, ours, theirs, plan.tpe, few)),
        _at_most("the same over a journal file", _ratio(taken, "tpe hpo,0", "tpe raw", "journal")),
    ]


def _growth(taken: Taken, plan: Plan, workers: int, where: str) -> list[Row]:
    """CPU and memory of a further trial beyond what Optuna's own takes, in a growing study."""
    pairs = zip(_further(taken, f"hpo,{workers}", plan), _further(taken, "raw", plan), strict=True)
    beyond = [(ours[0] - raw[0], ours[1] - raw[1]) for ours, raw in pairs]
    early, late = (statistics.median(part) for part in zip(*beyond, strict=True))
    optuna_late = statistics.median(late for _, late in _further(taken, "raw", plan))
    first, *_, last = plan.sizes
    grown = {
        key: median(taken[f"random {key} {last}"]).peak_mib
        - median(taken[f"random {key} {first}"]).peak_mib
        for key in ("raw", f"hpo,{workers}")
    }
    memory = (grown[f"hpo,{workers}"] - grown["raw"]) * 1024 / (last - first)
    return [
        Row(
            f"CPU of a further trial beyond Optuna's, early and late, {where}",
            f"{_ms(early)}, {_ms(late)} ms",
            "no growth (15 % of Optuna's own are noise)",
            late <= max(early, 0.0) + 0.15 * optuna_late,
        ),
        Row(
            f"driver's memory of a further trial beyond Optuna's, {where}",
            f"{memory:.1f} KiB",
            "flat (<= 1 KiB)",
            memory <= 1.0,
        ),
    ]


def _ratio(taken: Taken, ours: str, raw: str, at: int | str, beyond: int | None = None) -> float:
    """How many times the CPU time of `raw` ours takes, at a size or from one size to another.

    The median over repeats: two runs of one repeat are neighbours and see the same machine.
    """
    cpu = {key: [sample.cpu for sample in taken[f"{key} {at}"]] for key in (ours, raw)}
    if beyond is not None:
        for key, seconds in cpu.items():
            before = [sample.cpu for sample in taken[f"{key} {beyond}"]]
            cpu[key] = [b - a for a, b in zip(before, seconds, strict=True)]
    return statistics.median(a / b for a, b in zip(cpu[ours], cpu[raw], strict=True))


def _further(taken: Taken, key: str, plan: Plan) -> list[tuple[float, float]]:
    """For each repeat the CPU seconds of one more trial: between the first two sizes, and late."""
    a, b, c = plan.sizes
    few, some, many = (taken[f"random {key} {trials}"] for trials in plan.sizes)
    return [
        ((y.cpu - x.cpu) / (b - a), (z.cpu - y.cpu) / (c - b))
        for x, y, z in zip(few, some, many, strict=True)
    ]


def _start_rows(taken: Taken) -> list[Row]:
    rows = []
    for command in ("--help", "list"):
        sample = median(taken[f"{START} {command}"])
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


def _at_most(figure: str, ratio: float, target: float | None = None) -> Row:
    if target is None:
        return Row(figure, f"{ratio:.2f}x")
    return Row(figure, f"{ratio:.2f}x", f"<= {target:g}x", ratio <= target)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def _write(
    plan: Plan,
    taken: Taken,
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
