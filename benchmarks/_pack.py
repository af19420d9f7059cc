"""Trials a second of CPU time carries out: one after another, and together in an ensemble.

Only the training is counted, not the start of a process, nor proposals or the ledger, which are
the same for both; one thread, in the environment of our workers. The arms of a repeat follow each
other, and a ratio is the median of the ratios within the repeats. An unpacked trial writes no
checkpoint here, a packed one never does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from _report import Report, Row, median_interval, table

from hpo.packing import drain_together
from hpo.preparation import spec_from_keywords
from hpo.problem import Problem, load
from hpo.trial import Outcome, Plan, drain
from objectives.training.measurement import Measurement

CASES: Mapping[str, Mapping[str, Any]] = {
    "MLP 2 x 32, batch 32": {"hidden": 32, "batch_size": 32},
    "MLP 2 x 128, batch 50": {},
    "MLP 2 x 128, batch 256": {"batch_size": 256},
    "MLP 2 x 512, batch 50": {"hidden": 512},
    "MLP 2 x 512, batch 256": {"hidden": 512, "batch_size": 256},
    "CNN, batch 32": {"network": "cnn", "hidden": 32, "batch_size": 32},
}
SMALL = "MLP 2 x 32, batch 32"
PACKS = (2, 8, 32)
ALONE = 4  # trials one after another: they do not differ in what they cost
STEPS = 120  # with a measurement each 60, as the objective has it
TARGET = 3.0


def throughput(repeats: int, quick: bool) -> Report:
    """Trials a second of CPU time carries out, by the model and by how many go together."""
    torch.set_num_threads(1)
    steps = 20 if quick else STEPS
    lines, rows, data = [], [], {}
    for name in [SMALL] if quick else CASES:
        taken = _taken(CASES[name], repeats, steps)
        data[name] = taken
        ratios = {
            pack: median_interval(a / b for a, b in zip(taken[1], taken[pack], strict=True))
            for pack in PACKS
        }
        milliseconds = f"{1000 * statistics.median(taken[1]) / steps:.2f}"
        lines.append([name, milliseconds, *(f"{ratio.shown(2)}x" for ratio in ratios.values())])
        if name == SMALL:
            most = ratios[max(PACKS)]
            figure = f"trials a CPU second, --pack {max(PACKS)} against one by one, {name}"
            rows.append(Row(figure, f"{most.shown(2)}x", f">= {TARGET}x", most.middle >= TARGET))
    header = ["digits", "CPU ms a step alone", *(f"--pack {pack}" for pack in PACKS)]
    return Report([table(header, lines)], rows, {"seconds_a_trial": data, "steps": steps})


def _taken(options: Mapping[str, Any], repeats: int, steps: int) -> dict[int, list[float]]:
    """CPU seconds a trial, by how many go together."""
    problem = load(
        spec_from_keywords(
            objective="digits", objective_options=dict(options), space="regularization",
            pack=max(PACKS), steps=steps, training={"evaluations": 2},
        )
    )  # fmt: skip
    _together(problem, 2), _alone(problem, 1)  # imports, data
    taken: dict[int, list[float]] = {pack: [] for pack in (1, *PACKS)}
    for repeat in range(repeats):
        for pack in taken:
            began = time.process_time()
            count = _alone(problem, ALONE) if pack == 1 else _together(problem, pack)
            taken[pack].append((time.process_time() - began) / count)
        told = "  ".join(f"{pack}: {1000 * t[-1]:.1f} ms" for pack, t in taken.items())
        print(f"{repeat + 1}/{repeats}  {dict(options)}  {told}", file=sys.stderr, flush=True)
    return taken


def _alone(problem: Problem, count: int) -> int:
    return _complete([drain(problem, plan, lambda _: True) for plan in _plans(problem, count)])


def _together(problem: Problem, count: int) -> int:
    def observe(number: int, measurement: Measurement) -> bool:
        return True

    told = drain_together(problem, _plans(problem, count), observe)
    return _complete([outcome for _, outcome in told])


def _complete(outcomes: Sequence[Outcome]) -> int:
    assert all(outcome.state == "complete" for outcome in outcomes)
    return len(outcomes)


def _plans(problem: Problem, count: int) -> list[Plan]:
    """Trials spread over the whole space, the first of them at its start."""
    coordinates = problem.space.coordinates()
    dice = torch.Generator().manual_seed(0)
    points = [problem.space.start_coordinates()]
    for _ in range(count - 1):
        points.append(
            {n: d.from_unit(float(torch.rand((), generator=dice))) for n, d in coordinates.items()}
        )
    return [Plan(n, 0, problem.schedule(point), 0) for n, point in enumerate(points)]
