"""Hypergradients within the training of networks: how much they gain, and what they cost."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from _report import Report, Row, mean_interval, table

_KNOBS = ("weight_decay", "input_noise", "label_smoothing")
# Sampler and its options; none: the start values held fixed.
ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "start values": ("", {}),
    "stn": ("stn", {}),
    "hypergrad": ("hypergrad", {}),
    "hypergrad, neumann": ("hypergrad", {"inverse": "neumann"}),
    "hypergrad, nystrom": ("hypergrad", {"inverse": "nystrom"}),
    "hypergrad, identity": ("hypergrad", {"inverse": "identity"}),
    "amigo": ("amigo", {}),
    "soba": ("soba", {}),
    "f2sa": ("f2sa", {}),
}


def online(quick: bool, seeds: int) -> Report:
    """Every sampler that follows hypergradients in a run, on two tasks; the loss is that of rows
    which neither training nor the knobs have seen."""
    lines, rows, runs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("digits", "table"):
            options = {} if name == "digits" else _breast_cancer(Path(folder))
            _run(name, options, 0, "", {}, True)  # imports are not part of a training
            found = {
                arm: [_run(name, options, seed, *ARMS[arm], quick) for seed in range(seeds)]
                for arm in ARMS
            }
            start = found["start values"]
            for arm, each in found.items():
                gains = [a["loss"] - b["loss"] for a, b in zip(start, each, strict=True)]
                better = sum(gain > 0 for gain in gains)
                cost = statistics.median(
                    b["cpu"] / a["cpu"] for a, b in zip(start, each, strict=True)
                )
                mean = statistics.fmean(one["loss"] for one in each)
                gained = "" if arm == "start values" else mean_interval(gains).shown(3)
                count = "" if arm == "start values" else f"{better} of {seeds}"
                lines.append([name, arm, f"{mean:.3f}", gained, count, f"{cost:.1f}"])
                runs += [
                    {"objective": name, "arm": arm, "seed": s, **o} for s, o in enumerate(each)
                ]
                if arm != "start values":
                    rows.append(Row(f"{name}: {arm} better than the start values", count))
    header = ["objective", "sampler", "hold-out loss", "gained", "better", "CPU, times a training"]
    return Report([table(header, lines)], rows, {}, runs)


def quickstart(quick: bool, seeds: int) -> Report:
    """Which of stn and hypergrad the quickstart should use. The rule, written before the first run:
    on digits split by seeds 10 and up, on which nothing was tried before, three trials each (start
    values, tuned, final values held); the lower mean hold-out loss of the best trial wins."""
    import hpo

    found: dict[str, list[float]] = {"stn": [], "hypergrad": []}
    runs, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(10, 10 + seeds):
            for sampler, losses in found.items():
                begun = time.process_time()
                result = hpo.run(
                    objective="digits",
                    objective_options={"data_seed": seed},
                    sampler=sampler,
                    trials=3,
                    seed=seed,
                    steps=60 if quick else None,
                    workers=0,
                    mlflow=False,
                    quiet=True,
                    mlruns=Path(folder) / f"{sampler}-{seed}",
                )
                each = [record.holdout for record in result.records]
                losses.append(min(loss for loss in each if loss is not None))
                cpu = time.process_time() - begun
                runs.append({"sampler": sampler, "seed": seed, "holdout": each, "cpu": cpu})
            lines.append([f"{seed}", *(f"{losses[-1]:.3f}" for losses in found.values())])
    means = {sampler: statistics.fmean(losses) for sampler, losses in found.items()}
    lines.append(["mean", *(f"{mean:.3f}" for mean in means.values())])
    apart = [b - a for a, b in zip(found["stn"], found["hypergrad"], strict=True)]
    rows = [
        Row("mean of hypergrad minus stn", mean_interval(apart).shown(3)),
        Row("the quickstart uses", min(means, key=lambda sampler: means[sampler])),
    ]
    return Report([table(["seed", *found], lines)], rows, {}, runs)


def _run(
    name: str, options: Mapping[str, Any], seed: int, sampler: str, given: Mapping[str, Any],
    quick: bool,
) -> dict[str, Any]:  # fmt: skip
    from hpo import samplers
    from hpo.samplers import Start
    from hpo.tunable import why_not
    from objectives.training.loop import train
    from objectives.training.resolve import resolve
    from objectives.training.task import training_of
    from objectives.training.tuner import Follow, Tuner
    from search_spaces import plugins
    from search_spaces.regularizer import Regularizer
    from search_spaces.space import SearchSpace

    task = resolve(name, {**options, "data_seed": seed})
    records: dict[str, Regularizer] = {
        knob: plugins.load("search_spaces.regularizers", knob, "REGULARIZER") for knob in _KNOBS
    }
    domains = {knob: domain for r in records.values() for knob, domain in r.knobs.items()}
    start = {knob: domain.start_value() for knob, domain in domains.items()}
    tuner: Tuner = Follow(SearchSpace(domains).schedule(start))
    if sampler:
        record = samplers.load(sampler)
        assert record.tune is not None
        tunable = {k: d for k, d in domains.items() if not why_not(record, records[k], d)}
        chosen = samplers.parse_options(record, given, sampler)
        tuner = record.tune(Start(tunable, records, start), chosen)
    training = training_of(task)
    training = replace(training, steps=60, evaluations=2) if quick else training
    begun = time.process_time()
    *_, last = train(task, records, tuner, training, seed)
    metrics = last.metrics
    loss = metrics.get("holdout_loss", metrics["val_loss"])
    cpu = time.process_time() - begun
    return {"loss": loss, "cpu": cpu, "point": dict(last.point), "cost": dict(last.cost)}


def _breast_cancer(folder: Path) -> dict[str, Any]:
    """The options of a table of 569 tumours, 30 features, two classes."""
    from sklearn.datasets import load_breast_cancer

    path = folder / "breast_cancer.csv"
    load_breast_cancer(as_frame=True).frame.to_csv(path, index=False)
    return {"path": str(path), "target": "target"}
