"""Self-tuning against searches between runs, at equal CPU time, on Fashion-MNIST."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from _report import Report, Row, mean_interval, table
from _stn_jobs import Store
from _stn_problems import methods
from _stn_runs import SAMPLERS, Job

from search_spaces.schedule import Schedule

_VAL, _TEST, _WINS = 0.335, 0.375, 0.9
_CHEAPER = 5.0
_SPREAD = _LOSS = 2.0  # percent
_RIVALS = ("tpe", "random", "asha", "stn full", "stn delta")
_BLACK_BOX = ("tpe", "gp", "asha")
_STARTS = (0.05, 0.3, 0.5, 0.7)

ARMS = ("fixed", *SAMPLERS, *methods())

Results = Mapping[Job, Mapping[str, Any]]
Keep = Callable[[Report], None]


@dataclass(frozen=True)
class Race:
    """How large it is. budget: CPU seconds of a run. times: how many budgets a search gets to come
    as far as ours; further_seeds: of that, and of the starts. width, rows: see `Job`. arms: of the
    race."""

    seeds: int = 10
    budget: float = 50.0
    further_seeds: int = 3
    times: float = 5.0
    width: int = 256
    rows: int | None = None
    arms: tuple[str, ...] = ARMS

    def jobs(self, arms: Iterable[str], seeds: int, **other: Any) -> list[Job]:
        """Seed by seed, so that what disturbs the machine disturbs all arms alike."""
        first = Job("", 0, self.budget, width=self.width, rows=self.rows)
        arms = list(arms)
        return [
            replace(first, arm=arm, seed=seed, **other) for seed in range(seeds) for arm in arms
        ]


def known(arms: Sequence[str]) -> tuple[str, ...]:
    """The arms, with stn among them; SystemExit for one that there is not."""
    wrong = [arm for arm in arms if arm not in ARMS]
    if wrong:
        raise SystemExit(f"no arm {wrong[0]}; there are {', '.join(ARMS)}")
    return tuple(dict.fromkeys(["stn", *arms]))


def race(plan: Race, store: Store, keep: Keep) -> Report:
    """Validation and test loss of every arm, and on how many seeds ours is better."""
    arms = plan.arms
    jobs = plan.jobs(arms, plan.seeds)
    found = store.results(jobs, lambda: keep(Report([], [], {}, store.record(jobs))))
    lines, rows = [], []
    ours = _of(found, "stn", "val")
    for arm in arms:
        val, test = _of(found, arm, "val"), _of(found, arm, "test")
        wins = sum(a < b for a, b in zip(ours, val, strict=True))
        sd = f"{statistics.stdev(val):.4f}" if len(val) > 1 else ""
        beaten = "" if arm == "stn" else f"{wins}/{len(val)}"
        cpu, trials = (statistics.fmean(_of(found, arm, key)) for key in ("cpu", "trials"))
        epochs = statistics.fmean(_of(found, arm, "epochs"))
        losses = [mean_interval(val).shown(4), sd, mean_interval(test).shown(4)]
        lines.append([arm, *losses, beaten, f"{cpu:.1f}", f"{trials:.1f}", f"{epochs:.0f}"])
        if arm in _RIVALS:
            met = wins >= _WINS * len(val)
            target = f">= {_WINS:.0%} of seeds"
            rows.append(Row(f"seeds on which stn beats {arm}", beaten, target, met))
    both = {"val": (ours, _VAL), "test": (_of(found, "stn", "test"), _TEST)}
    means = [_mean_row(name, values, most) for name, (values, most) in both.items()]
    header = ["arm", "val loss, mean [95 %]", "sd", "test loss, mean [95 %]", "stn better"]
    header += ["CPU s", "trials", "epochs"]
    return Report([table(header, lines)], [*means, *rows], {}, store.record(jobs))


def match(plan: Race, store: Store, keep: Keep) -> Report:
    """CPU time at which searches between runs come to the mean validation loss of ours."""
    own = plan.jobs(["stn"], plan.seeds)
    longer = plan.jobs(_BLACK_BOX, plan.further_seeds, budget=plan.times * plan.budget)
    jobs = [*own, *longer]
    found = store.results(jobs, lambda: keep(Report([], [], {}, store.record(jobs))))
    target = statistics.fmean(found[job]["val"] for job in own)
    cost = statistics.fmean(found[job]["cpu"] for job in own)
    reached = {
        arm: [_reached(found[job]["trace"], target) for job in longer if job.arm == arm]
        for arm in _BLACK_BOX
    }
    most = plan.times * plan.budget
    lines = []
    for arm, times in reached.items():
        best = min(found[job]["val"] for job in longer if job.arm == arm)
        shown = [f"> {most:.0f}" if math.isinf(t) else f"{t:.0f}" for t in times]
        censored = sum(map(math.isinf, times))
        lines.append([arm, ", ".join(shown), f"{censored}/{len(times)}", f"{best:.4f}"])
    # The median of censored times is right while fewer than half are, and else a lower bound.
    medians = {arm: statistics.median(min(t, most) for t in ts) for arm, ts in reached.items()}
    arm = min(medians, key=lambda arm: medians[arm])
    times_ours = medians[arm] / cost
    bound = "> " if medians[arm] >= most else ""
    figure = f"CPU at which the best search ({arm}, median seed) matches val loss {target:.4f}"
    met = times_ours >= _CHEAPER or (bool(bound) and plan.times >= _CHEAPER)
    row = Row(figure, f"{bound}{times_ours:.1f}x ours", f">= {_CHEAPER:g}x", met)
    header = (f"arm, up to {most:.0f} s", "CPU s to match, by seed", "never", "best val loss")
    data = {"target": target, "ours": cost, "seconds": {a: _plain(ts) for a, ts in reached.items()}}
    return Report([table(header, lines)], [row], data, store.record(jobs))


def starts(plan: Race, store: Store, keep: Keep) -> Report:
    """How much the validation loss depends on where the dropout rates start."""
    jobs = [j for s in _STARTS for j in plan.jobs(["stn"], plan.further_seeds, start=s)]
    found = store.results(jobs, lambda: keep(Report([], [], {}, store.record(jobs))))
    lines, means = [], []
    for start in _STARTS:
        here = [found[job] for job in jobs if job.start == start]
        val = [one["val"] for one in here]
        last = statistics.fmean(one["last"] for one in here)
        final = [Schedule.from_json(one["schedule"]).at(1.0) for one in here]
        means.append(statistics.fmean(val))
        lines.append([f"{start}", mean_interval(val).shown(4), f"{last:.4f}", _rates(final)])
    spread = 100 * (max(means) - min(means)) / min(means)
    by_seed = [_percent_apart(found, jobs, seed) for seed in range(plan.further_seeds)]
    within = f"{spread:.1f} % (within a seed at most {max(by_seed):.1f} %)"
    figure = "spread of the mean val loss over the starts"
    row = Row(figure, within, f"<= {_SPREAD:g} %", spread <= _SPREAD)
    header = ("start of dropout", "val loss, mean [95 %]", "at the end", "final rates, mean")
    data = {"percent": spread, "percent_by_seed": by_seed}
    return Report([table(header, lines)], [row], data, store.record(jobs))


def retrain(plan: Race, store: Store, keep: Keep) -> Report:
    """Training from scratch with what the tuning run found, against the tuning run itself."""
    own = plan.jobs(["stn"], plan.seeds)
    found = dict(store.results(own, lambda: keep(Report([], [], {}, store.record(own)))))
    replays = {mode: [_replay(job, found[job], mode) for job in own] for mode in _MODES}
    jobs = [*own, *(job for pair in zip(*replays.values(), strict=True) for job in pair)]
    found |= store.results(jobs, lambda: keep(Report([], [], {}, store.record(jobs))))
    lines, rows = [], []
    val, test = _of(found, "stn", "val"), _of(found, "stn", "test")
    lines.append(["the tuning run", mean_interval(val).shown(4), "", mean_interval(test).shown(4)])
    for mode, (name, counts) in _MODES.items():
        here = [found[job] for job in replays[mode]]
        again = [one["val"] for one in here]
        loss = mean_interval(100 * (a / b - 1) for a, b in zip(again, val, strict=True))
        tested = mean_interval(one["test"] for one in here).shown(4)
        lines.append([name, mean_interval(again).shown(4), f"{loss.shown(1)} %", tested])
        if counts:
            figure = f"val loss of retraining with {name}, against the tuning run"
            met = loss.middle <= _LOSS
            rows.append(Row(figure, f"{loss.middle:+.1f} %", f"<= +{_LOSS:g} %", met))
    header = ("trained", "val loss, mean [95 %]", "worse by, mean [95 %]", "test loss")
    return Report([table(header, lines)], rows, {}, store.record(jobs))


# Whether the figure counts, beside what people read.
_MODES = {
    "values": ("its schedule", True),
    "expected": ("its schedule, expected values", False),
    "final": ("its final values held", True),
}


def _replay(job: Job, tuned: Mapping[str, Any], mode: str) -> Job:
    schedule = Schedule.from_json(tuned["schedule"])
    if mode == "expected":
        schedule = schedule.expected()
    elif mode == "final":
        schedule = Schedule.constant(schedule.space, schedule.at(1.0))
    text = json.dumps(schedule.to_json(), sort_keys=True)
    return replace(job, arm="replay", schedule=text, epochs=tuned["epochs"])


def _mean_row(name: str, values: Sequence[float], most: float) -> Row:
    mean = statistics.fmean(values)
    return Row(f"mean {name} loss of stn", f"{mean:.4f}", f"<= {most}", mean <= most)


def _of(found: Results, arm: str, key: str) -> list[float]:
    return [result[key] for job, result in found.items() if job.arm == arm]


def _reached(trace: Sequence[Sequence[float]], target: float) -> float:
    return next((seconds for seconds, value in trace if value <= target), math.inf)


def _plain(times: Sequence[float]) -> list[float | None]:
    """The times as JSON has them: none where it was not reached."""
    return [None if math.isinf(seconds) else seconds for seconds in times]


def _percent_apart(found: Results, jobs: Sequence[Job], seed: int) -> float:
    values: list[float] = [found[job]["val"] for job in jobs if job.seed == seed]
    return 100 * (max(values) - min(values)) / min(values)


def _rates(points: Sequence[Mapping[str, Any]]) -> str:
    rates = zip(*(point["dropout"] for point in points), strict=True)
    noise = statistics.fmean(point["input_noise"] for point in points)
    return " ".join(f"{statistics.fmean(rate):.2f}" for rate in rates) + f", noise {noise:.2f}"
