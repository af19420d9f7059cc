"""Self-Tuning Networks: cost of a step, race against searches between runs, quality of gradients.

    python benchmarks/stn.py [PART ...] [--quick] [--resume] [--seeds N] [--budget S] ...

cost           CPU time of a train step against a bare loop; the published networks beside it
memory         parameters while tuning, activations a step keeps for backward
race           Fashion-MNIST, an MLP, four knobs, 50 CPU seconds a run, 10 seeds, all methods
match          CPU time at which searches between runs come to our validation loss
hypergradient  cosine of the knob gradient with the closed form of dropout regression
starts         spread of the validation loss over the values the knobs start from
retrain        training anew with the schedule that was found, and with its final values
studies        `hpo run --sampler stn` against `--sampler tpe` at equal CPU time, 5 seeds, real data

Without names all parts run. Each prints a Markdown table and writes results/stn-PART.json, with all
it takes to repeat it. Everything runs on one thread with the environment of this project's worker
processes, the plain loops too. CPU time is that of the process, import and reading of data left
out. Where arms are compared they take turns. Parts share runs; --resume takes runs from the JSON
files of an earlier call whose code is the same, so that a call that was ended goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _report import Report
    from _stn_jobs import Store

HERE = Path(__file__).parent
PARTS = ("cost", "memory", "race", "match", "hypergradient", "starts", "retrain", "studies")


def main() -> None:
    options = _options()
    from _measure import as_a_worker

    as_a_worker()
    import torch
    from _report import show, write
    from _stn_jobs import Store

    torch.set_num_threads(1)
    folder: Path = options.results
    store = Store(0 if options.quick else options.processes, folder if options.resume else None)
    for part in options.parts:
        path = folder / f"stn-{part}{'-quick' if options.quick else ''}.json"
        keep = partial(write, path, {**vars(options), "results": str(folder)})
        report = _part(part, options, store, keep)
        keep(report)
        show(part, report, options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that it works")
    parser.add_argument("--resume", action="store_true", help="take finished runs from the results")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for JSON")
    parser.add_argument("--arms", nargs="+", help="of race: these alone, for example --arms stn")
    parser.add_argument("--seeds", type=int, default=10, help="of race and most parts (10)")
    parser.add_argument("--further-seeds", type=int, default=3, help="of match and starts (3)")
    parser.add_argument("--budget", type=float, default=50.0, help="CPU seconds of a run (50)")
    parser.add_argument("--times", type=float, default=5.0, help="budgets of a run of match (5)")
    parser.add_argument("--repeats", type=int, default=31, help="timings of each arm in cost (31)")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, at most (2)")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    options.processes = max(1, min(options.processes, os.cpu_count() or 1))
    return options


def _part(
    part: str, options: argparse.Namespace, store: Store, keep: Callable[[Report], None]
) -> Report:
    """Imports what a part needs and runs it."""
    quick = options.quick
    if part in ("cost", "memory"):
        import _stn_cost

        if part == "memory":
            return _stn_cost.memory(quick)
        return _stn_cost.cost(options.repeats, quick)
    if part == "hypergradient":
        from _stn_hypergradient import hypergradient

        if quick:
            return hypergradient(range(1), 60, 0)
        return hypergradient(range(options.seeds), 3000, options.processes)
    if part == "studies":
        from _stn_studies import studies

        objectives = ("digits",) if quick else ("digits", "fashion_mnist")
        return studies(objectives, 1 if quick else min(5, options.seeds), quick, keep)
    import _stn_race

    plan = _stn_race.Race(options.seeds, options.budget, options.further_seeds, options.times)
    if options.arms:
        plan = dataclasses.replace(plan, arms=_stn_race.known(options.arms))
    if quick:
        plan = _stn_race.Race(1, 0.3, 1, 2.0, width=16, rows=256)
    function: Callable[..., Report] = getattr(_stn_race, part)
    return function(plan, store, keep)


if __name__ == "__main__":
    main()
