"""Whether the response's gradient of the knobs points where the true one does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from _dropout_regression import DropoutRegression, regularizers, space
from _report import Report, Row, median_interval, table
from _stn_jobs import spread_out
from _stn_problems import RESPONSES, methods
from torch import Tensor

from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.selftuning import SelfTuning
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from search_spaces.space import SearchSpace

_EVERY = 5  # training steps for each gradient of the knobs
_SCALE = 0.5
_STILL = 1e-12  # the rate of the knobs: they stay, but every gradient is taken
_LEAST = 0.97


class Case(NamedTuple):
    arm: str
    seed: int
    steps: int


def hypergradient(seeds: Sequence[int], steps: int, processes: int) -> Report:
    """The cosine of the response's gradient with the closed form, by method, over seeds."""
    cases = [Case(arm, seed, steps) for seed in seeds for arm in methods()]
    found = dict(zip(cases, spread_out(measure, cases, processes), strict=True))
    lines, rows = [], []
    for arm in methods():
        here = [result for case, result in found.items() if case.arm == arm]
        cosines = [result["cosine"] for result in here]
        lengths = [result["length"] for result in here]
        signs = statistics.fmean(result["signs"] for result in here)
        middle = median_interval(cosines).shown(3)
        spread = f"{min(lengths):.2f} to {max(lengths):.2f}"
        lines.append([arm, f"{min(cosines):.3f}", middle, spread, f"{signs:.0%}"])
        if arm == "stn":
            figure = f"cosine of the knob gradient, worst of {len(cosines)} seeds"
            worst = min(cosines)
            rows.append(Row(figure, f"{worst:.3f}", f">= {_LEAST}", worst >= _LEAST))
    same = [_cosine(_truth(seed), torch.ones(4, dtype=torch.float64)) for seed in seeds]
    middle = median_interval(same).shown(3)
    lines.append(["equal in all groups", f"{min(same):.3f}", middle, "", ""])
    header = ("gradient", "worst cosine", "median [95 %]", "length over true", "signs agree")
    runs = [{**case._asdict(), **result} for case, result in found.items()]
    return Report([table(header, lines)], rows, {"scale": _SCALE}, runs)


def measure(case: Case) -> dict[str, Any]:
    """Cosine, length over the true length, and share of right signs of the mean gradient that the
    last third of a run finds, its knobs held still."""
    torch.set_num_threads(1)
    knobs = space()
    training = Training(case.steps, "momentum", 0.01, learning_rate_schedule="constant")
    task, device = DropoutRegression(case.seed), torch.device("cpu")
    tuner = _tuner(case.arm, knobs)
    run = Run(
        Setting(task, regularizers(), tuner, training, case.seed, device),
        GlobalStreams(case.seed, device),
    )
    run.begin()
    center = tuner.descent.center if case.arm == "stn" else tuner.center
    grads = []
    for step in range(1, case.steps + 1):
        run.train_step()
        if step % _EVERY == 0 and step > 2 * case.steps / 3:
            grads.append(center.grad.detach().double().clone())
    run.close()
    mean, truth = torch.stack(grads).mean(0), task.slope(knobs)
    return {
        "cosine": _cosine(mean, truth),
        "length": float(mean.norm() / truth.norm()),
        "signs": float((mean.sign() == truth.sign()).double().mean()),
        "found": mean.tolist(),
        "true": truth.tolist(),
    }


def _tuner(arm: str, knobs: SearchSpace) -> Any:
    options = SelfTuningOptions(
        response=RESPONSES[arm],  # type: ignore[arg-type]
        every=_EVERY,
        settle=0.0,
        rate=_STILL,
        scale=_SCALE,
        learn_scale=False,
    )
    if arm == "stn":
        return SelfTuning(knobs, regularizers(), knobs.start, options)
    from hpo.bilevel.stn.published import Published
    from hpo.bilevel.stn.published_forms import FORMS

    form = replace(FORMS[options.response], scale=_SCALE)
    return Published(knobs, regularizers(), knobs.start, options, form)


def _truth(seed: int) -> Tensor:
    return DropoutRegression(seed).slope(space())


def _cosine(a: Tensor, b: Tensor) -> float:
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else math.nan
