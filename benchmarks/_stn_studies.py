"""Whole studies at equal cost: what `hpo run --sampler stn` brings against `--sampler tpe`.

For each objective and each of the seeds (which decide the data split, the start of the weights and
the search) a study of STN is run: the start values held, one tuned run, one run with its final
values held. All three are billed. TPE then runs trials (the first is the start values) until it has
used as much CPU time; the trial that crosses the line counts. Both take the trial that is best on
the selection hold-out and are compared by what that trial reached there.

The check for the quickstart, written down before it was run: on `digits` the sampler is taken that
reaches the lower hold-out loss on more of the seeds; at a tie, `tpe` stays.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from _report import Report, Row, mean_interval

Runs = list[dict[str, Any]]
TRIALS = 3  # start values, tuned, final values held


def studies(
    objectives: Sequence[str], seeds: int, quick: bool, keep: Callable[[Report], None]
) -> Report:
    """One study of each sampler for each objective and seed; reports after each pair."""
    runs: Runs = []
    for objective in objectives:
        for seed in range(seeds):
            stn = _stn(objective, seed, quick)
            runs += [stn, _tpe(objective, seed, quick, stn["cpu"])]
            keep(_report(runs))
    return _report(runs)


def _about(objective: str, seed: int, quick: bool) -> dict[str, Any]:
    return {
        "objective": objective,
        "objective_options": {"data_seed": seed},
        "space": "regularization",
        "seed": seed,
        "workers": 0,
        "mlflow": False,
        "quiet": True,
        **({"steps": 60} if quick else {}),
    }


def _stn(objective: str, seed: int, quick: bool) -> dict[str, Any]:
    import hpo

    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        result = hpo.run(
            **_about(objective, seed, quick), sampler="stn", trials=TRIALS, mlruns=folder
        )
        cpu = time.process_time() - begun
    start, best = result.start, result.best
    assert start is not None and best is not None
    held = {record.number: record.holdout for record in result.records}
    return {
        "objective": objective,
        "seed": seed,
        "sampler": "stn",
        "holdout": best.holdout,
        "start": start.holdout,
        "tuned": held.get(1),
        "held": held.get(2),
        "trials": len(result.records),
        "cpu": cpu,
    }


def _tpe(objective: str, seed: int, quick: bool, budget: float) -> dict[str, Any]:
    import hpo

    about = _about(objective, seed, quick)
    with tempfile.TemporaryDirectory() as folder:
        trials, cpu = 0, 0.0
        while cpu < budget:
            trials += 1
            begun = time.process_time()
            result = hpo.run(
                **about, sampler="tpe", trials=trials, mlruns=folder, resume=trials > 1
            )
            cpu += time.process_time() - begun
    best = result.best
    assert best is not None
    return {
        "objective": objective,
        "seed": seed,
        "sampler": "tpe",
        "holdout": best.holdout,
        "trials": trials,
        "cpu": cpu,
    }


def _report(runs: Runs) -> Report:
    lines = [
        "| objective | seed | start | tuned | held | stn best | tpe best (trials) | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for objective in dict.fromkeys(run["objective"] for run in runs):
        mine = [run for run in runs if run["objective"] == objective]
        pairs = list(zip(mine[::2], mine[1::2], strict=False))
        for stn, tpe in pairs:
            losses = " | ".join(_shown(stn[key]) for key in ("start", "tuned", "held", "holdout"))
            lines.append(
                f"| {objective} | {stn['seed']} | {losses} | {tpe['holdout']:.3f} ({tpe['trials']})"
                f" | {stn['cpu']:.0f}, {tpe['cpu']:.0f} |"
            )
        if not pairs:
            continue
        count = len(pairs)
        over_start = sum(stn["holdout"] < stn["start"] for stn, _ in pairs)
        over_tpe = sum(stn["holdout"] < tpe["holdout"] for stn, tpe in pairs)
        gain = mean_interval(tpe["holdout"] - stn["holdout"] for stn, tpe in pairs)
        rows += [
            Row(
                f"{objective}: better than the start values",
                f"{over_start} of {count}",
                "all",
                over_start == count,
            ),
            Row(
                f"{objective}: better than tpe at equal cost",
                f"{over_tpe} of {count}",
                "4 of 5",
                over_tpe >= 0.8 * count,
            ),
            Row(f"{objective}: hold-out loss of tpe minus that of stn", gain.shown(3)),
        ]
    return Report(["\n".join(lines)], rows, {}, runs)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
