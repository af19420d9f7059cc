"""What engine ray costs beside stock Ray Tune, how full it keeps a cluster, how fast it recovers.

    python benchmarks/ray.py [PART ...] [--quick] [--repeats N]

trivial     200 trials that cost nothing: this engine, stock Ray Tune with OptunaSearch as it comes,
            and the same without the loggers that it writes results with; 50 trials alone
slots       how much of four fake GPUs is in use by trials of two to twelve seconds
node        from the loss of a trial's node to its next measurement on another one
many        100 trials at once on one machine of as many fake processors
same        whether a seeded sequential study comes to the same table on both engines
pack        small networks trained as one ensemble, against one by one (--workers 1)

Prints Markdown tables and writes benchmarks/results/ray.json. Each case has a process and a Ray of
its own; repeats are interleaved, medians are told, a ratio is the median of the ratios within each
repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
# This script is called like the package that its programs import: its folder comes last.
sys.path.append(sys.path.pop(0))

from _report import Report, Row, table, verdicts, write  # noqa: E402

Found = Mapping[str, float]
MANY = 100  # of 110 MiB each


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--repeats", type=int, help="runs of each case (3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder (results)")
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; there are {', '.join(PARTS)}")
    repeats = given.repeats or (1 if given.quick else 3)
    reports = [PARTS[name](given.quick, repeats) for name in given.parts or PARTS]
    rows = [row for report in reports for row in report.rows]
    for report in reports:
        print("\n\n".join(report.tables), end="\n\n" if report.tables else "")
    print(verdicts(rows, given.quick))
    data = {key: value for report in reports for key, value in report.data.items()}
    settings = {"parts": given.parts, "quick": given.quick, "repeats": repeats}
    write(given.results / "ray.json", settings, Report((), rows, data))


def trivial(quick: bool, repeats: int) -> Report:
    many, few = (12, 6) if quick else (200, 50)
    cases: dict[str, Sequence[object]] = {
        "hpo": ("ours", many, 2),
        "stock": ("stock", many, 2, True),
        "stock, no loggers": ("stock", many, 2, False),
        f"hpo, {few} trials": ("ours", few, 2),
    }
    taken: dict[str, list[Found]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            taken[name].append(_program(*case))
    lines = [
        (name, f"{_median(found, 'wall'):.1f}", f"{_median(found, 'cpu'):.1f}",
         f"{_median(found, 'peak_mib'):.0f}")
        for name, found in taken.items()
    ]  # fmt: skip
    each = _median(taken[f"hpo, {few} trials"], "wall") / few
    ratios = {other: _ratio(taken["hpo"], taken[other]) for other in ("stock", "stock, no loggers")}
    rows = [
        Row(f"{many} trivial trials, fit time by stock Ray Tune's", f"{ratios['stock']:.2f}",
            "<= 1.2", ratios["stock"] <= 1.2),
        Row("the same, Ray Tune without its loggers", f"{ratios['stock, no loggers']:.2f}"),
        Row(f"{few} trivial trials, seconds each", f"{each:.3f}", "<= 0.3", each <= 0.3),
    ]  # fmt: skip
    header = (f"{many} trivial trials, 2 workers", "fit s", "driver CPU s", "driver MiB")
    return Report([table(header, lines)], rows, {"trivial": taken})


def slots(quick: bool, repeats: int) -> Report:
    found = [_program("occupancy", 8 if quick else 40) for _ in range(1 if quick else repeats)]
    share, gap = _median(found, "occupancy"), _median(found, "gap")
    told = f"{share:.1%}, {1000 * gap:.0f} ms between two trials"
    row = Row("four fake GPUs in use, trials of 2 to 12 s", told, ">= 95 %", share >= 0.95)
    return Report([], [row], {"slots": found})


def node(quick: bool, repeats: int) -> Report:
    found = [_program("node", 3000) for _ in range(repeats)]
    seconds, noticed = _median(found, "seconds"), _median(found, "noticed")
    told = f"{seconds:.1f} (noticed after {noticed:.1f})"
    row = Row("node lost to next measurement elsewhere, s", told, "<= 15", seconds <= 15)
    return Report([], [row], {"node": found})


def many(quick: bool, repeats: int) -> Report:
    found = _program("many", 4 if quick else MANY)
    told = (
        f"{found['at_once']:.0f} ran at once; driver {found['driver_ms_a_report']:.1f} ms of"
        f" CPU a report; all processes {found['all_mib'] / 1024:.1f} GiB"
    )
    return Report([], [Row("trials at once, one machine", told)], {"many": found})


def same(quick: bool, repeats: int) -> Report:
    found = _program("same", 4 if quick else 16)
    equal, count = bool(found["same"]), int(found["trials"])
    told = f"{'yes' if equal else 'no'}, {count} trials of digits, TPE, median pruner"
    return Report([], [Row("same table on both engines", told, "yes", equal)], {"same": found})


def pack(quick: bool, repeats: int) -> Report:
    from _pack import throughput

    return throughput(repeats, quick)


PARTS: Mapping[str, Callable[[bool, int], Report]] = {
    "trivial": trivial,
    "slots": slots,
    "node": node,
    "many": many,
    "same": same,
    "pack": pack,
}


def _program(name: str, *given: object) -> Found:
    """What a program of `_ray_programs.py` found. Raises RuntimeError with what it said else."""
    command = [sys.executable, "-P", str(HERE / "_ray_programs.py"), name]
    ended = subprocess.run(
        [*command, *(json.dumps(one) for one in given)], capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-3000:]}")
    found: Found = json.loads(ended.stdout)
    print(f"{name} {given}: {found}", file=sys.stderr, flush=True)
    return found


def _median(found: Sequence[Found], key: str) -> float:
    return statistics.median(one[key] for one in found)


def _ratio(ours: Sequence[Found], theirs: Sequence[Found]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(one["wall"] / other["wall"] for one, other in pairs)


if __name__ == "__main__":
    main()
