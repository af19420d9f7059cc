"""Whether a self-tuning run can be believed: response, gradients, perturbations, splits, cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpo.bilevel.diagnostics import alarms
from hpo.bilevel.diagnostics.audit import Audit
from hpo.bilevel.diagnostics.significance import LEAST, certainty
from hpo.bilevel.stn.freeknobs import FreeKnobs
from hpo.bilevel.stn.options import SelfTuningOptions
from search_spaces.domains import Choice

WINDOW = 100  # steps of the knobs by which the certainty of a direction is told
_CHECKS = 10  # of the response, looked at together
_GAPS = 12  # measurements by which a trend of the splits is told
_NODES = 21  # of the quadrature of a mean under the perturbation
_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of a normal number with variance 1
# What depends on the clock: the only metrics that differ when a run is repeated.
TIMED = frozenset({"stn/overhead", "stn/hyper_share"})


class Diagnostics:
    """What a self-tuning run says about itself, as metrics and in plain words.

    Of `free` the names and ranges are read, of `options` the bounds of the perturbation and the
    pace. `rows`: how many validation rows there are, `training_steps`: how many steps the run has;
    0 if unknown. `steps` of the knobs were taken, `refused` were not.
    """

    def __init__(
        self, free: FreeKnobs, options: SelfTuningOptions, rows: int = 0, training_steps: int = 0
    ) -> None:
        self._free, self._options, self._rows = free, options, rows
        self._training_steps = training_steps
        self._names = [column.name for column in free.columns]
        device = free.shared.device
        self._gradients = torch.zeros(WINDOW, len(free), device=device)
        self._row_variance = torch.zeros(len(free), device=device)
        self.steps = self.refused = 0
        self._unlearned = 0  # steps of the response that were not taken
        self._center: Tensor | None = None
        self._start: Tensor | None = None
        self._scale = torch.zeros(len(free), device=device)
        self._gains: list[list[float]] = []  # mean and its squared standard error, of each check
        self._gaps: list[list[float]] = []  # train, validation, hold-out (nan where there is none)
        self._cost: dict[str, float] = {}
        self._audit: dict[str, float] = {}
        self._holding: list[str] = []
        points, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        self._points = torch.tensor(points, dtype=torch.float64)
        self._weights = torch.tensor(weights / weights.sum(), dtype=torch.float64)

    # -- what it is told --------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, gradient: Tensor, each: Tensor, scale: Tensor, center: Tensor) -> None:
        """A step of the knobs was taken: its gradient (columns,), the part `each` row (rows,
        columns) had in it, and the scale and centre (columns,) before it. Waits for no device."""
        self._gradients[self.steps % WINDOW] = gradient.to(self._gradients)
        if len(each) > 1:
            # The gradient is a sum over rows: the variance of rows * part is that of one row's own.
            own = each.var(0).to(self._row_variance) * len(each) ** 2
            share = max(1 / (self.steps + 1), 1 / WINDOW)
            self._row_variance += share * (own - self._row_variance)
        if self._start is None:
            self._start = center.detach().clone()
        self._center, self._scale = center.detach().clone(), scale.detach().clone()
        self.steps += 1

    @property
    def tried(self) -> int:
        """Steps of the knobs that were taken or refused."""
        return self.steps + self.refused

    def refuse(self) -> None:
        """A step of the knobs was not taken, because its gradient was not finite."""
        self.refused += 1

    def unlearn(self) -> None:
        """A step of the response was not taken, for the same reason."""
        self._unlearned += 1

    def gain(self, differences: Tensor) -> None:
        """The loss of each example (rows,) with the response off minus that with it on."""
        found = differences.detach().double().flatten()
        error = float(found.var() / len(found)) if len(found) > 1 else 0.0
        self._gains = [*self._gains, [float(found.mean()), error]][-_CHECKS:]

    def gap(self, train: float, validation: float, holdout: float | None = None) -> None:
        """The losses without any regularizer on rows of the three splits, at a measurement."""
        losses = [train, validation, math.nan if holdout is None else holdout]
        if math.isfinite(train) and math.isfinite(validation):
            self._gaps = [*self._gaps, losses][-_GAPS:]

    def cost(
        self, step: float, plain: float, hyper: float, every: int, memory: float | None = None
    ) -> None:
        """Seconds of a training step with the response and without, and of a step of the knobs,
        taken once in `every` steps; bytes that the response keeps."""
        with_knobs = step + hyper / every
        self._cost = {
            "stn/overhead": with_knobs / plain - 1,
            "stn/hyper_share": hyper / every / with_knobs,
        }
        if memory is not None:
            self._cost["stn/memory_mib"] = memory / 2**20

    def audited(self, found: Audit) -> None:
        """An audit of the gradient."""
        self._audit = found.metrics()

    # -- what it says -----------------------------------------------------------------------------

    def report(self) -> dict[str, float]:
        """Metrics by name, finite numbers all of them; what is not known yet is left out.

        gain, gain_t: how much better the loss is with the response, and how many standard errors.
        snr/<strength>: the certainty of the gradient, sure above 2; snr_rows/<strength>: what it
        would at least be if only the choice of the validation rows were noise. sigma, expected: the
        perturbation, and the mean value under it. entropy: of all perturbations together.
        gap_train_val, gap_val_holdout: how much lower the loss is on the first split. overhead: by
        which share a step is slower; hyper_share: of the time, spent on the knobs. audit_*: of the
        last audit. refused, unlearned: steps of the knobs and of the response that were not taken,
        where there are any.
        """
        found = self._cost | self._audit
        missed = {"stn/refused": float(self.refused), "stn/unlearned": float(self._unlearned)}
        found |= {name: count for name, count in missed.items() if count}
        if self._gains:
            gain, t = self._response()
            found["stn/gain"] = gain
            if math.isfinite(t):
                found["stn/gain_t"] = t
        if self._gaps:
            train, validation, holdout = self._gaps[-1]
            found["stn/gap_train_val"] = validation - train
            if math.isfinite(holdout):
                found["stn/gap_val_holdout"] = holdout - validation
        if self._center is not None:
            found |= self._of_columns()
        return found

    def _of_columns(self) -> dict[str, float]:
        found: dict[str, float] = {}
        standings, by_rows = self._standings(), self._certainty_by_rows()
        for at, by_row in zip(standings, by_rows, strict=True):
            name = at.column.name
            if self.steps >= LEAST:
                found[f"stn/snr/{name}"] = at.certainty
                if by_row is not None:
                    found[f"stn/snr_rows/{name}"] = by_row
            found[f"stn/sigma/{name}"] = at.scale
            if not isinstance(at.column.domain, Choice):
                found[f"stn/expected/{name}"] = at.expected
        scales = [at.scale for at in standings if at.scale > 0]
        if scales:
            found["stn/entropy"] = sum(_ENTROPY + math.log(scale) for scale in scales)
        return found

    def direction(self) -> Tensor:
        """The mean gradient (columns,) of the last steps of the knobs: what an audit tests."""
        return self._window().mean(0)

    def warnings(self) -> list[str]:
        """What is wrong, in plain words: each when it begins, again only after it had ended."""
        holding, told = [], []
        for alarm in self._alarms():
            held = alarm.key in self._holding
            if alarm.lasts if held else alarm.begins:
                holding.append(alarm.key)
                if not held:
                    told.append(alarm.text)
        self._holding = holding
        return told

    def _alarms(self) -> list[alarms.Alarm]:
        found = [
            alarms.of_rows(len(self._names), self._rows),
            alarms.of_refusals(self.refused, self.tried),
            alarms.of_unlearned(self._unlearned),
        ]
        if self._training_steps:
            found.append(alarms.of_pace(self._options, self._training_steps))
        if self._gains:
            found.append(alarms.of_response(*self._response(), len(self._gains)))
        pairs = [(v, h) for _, v, h in self._gaps if math.isfinite(h)]
        found.append(alarms.of_split([v for v, _ in pairs], [h for _, h in pairs]))
        if self.steps >= LEAST:
            options = self._options
            for at in self._standings():
                found += alarms.of_knob(
                    at, options.least_scale, options.most_scale, options.learn_scale
                )
        return found

    # -- how it comes to it -----------------------------------------------------------------------

    def _window(self) -> Tensor:
        """The last gradients (steps, columns), the oldest first."""
        if self.steps <= WINDOW:
            return self._gradients[: self.steps]
        return self._gradients.roll(-(self.steps % WINDOW), 0)

    def _response(self) -> tuple[float, float]:
        """The gain, and how many standard errors it is; nan for a single check of one number.

        Checks differ by more than their rows do, for a knob with one draw a batch moves all rows
        alike; so the larger of the two standard errors counts.
        """
        means, errors = torch.tensor(self._gains, dtype=torch.float64).unbind(1)
        n = len(means)
        squared = float(errors.sum()) / n**2
        if n > 1:
            squared = max(squared, float(means.var()) / n)
        gain = float(means.mean())
        return gain, gain / math.sqrt(squared) if squared else math.nan

    def _certainty_by_rows(self) -> list[float | None]:
        """|mean gradient| by how much it would change if the validation rows were drawn anew; at
        least that, for the rows also differ by their perturbations. None where they have no part
        in it."""
        mean = self._window().double().mean(0).abs().tolist()
        variance = self._row_variance.double().tolist()
        return [
            m / math.sqrt(v / self._rows) if v > 0 and self._rows else None
            for m, v in zip(mean, variance, strict=True)
        ]

    def _standings(self) -> list[alarms.Standing]:
        assert self._center is not None and self._start is not None
        window = self._window()
        center, scale = self._center, self._scale
        beside = center + self._points.to(center)[:, None] * scale
        expected = (self._weights.to(center)[:, None] * self._free.flat_values(beside)).sum(0)
        rows = torch.stack(
            [
                part.detach().double().cpu()
                for part in (
                    *(center, self._start, scale, window.mean(0), certainty(window)),
                    *(self._free.flat_values(center), expected),
                )
            ],
            dim=1,
        ).tolist()
        return [
            alarms.Standing(column, *row)
            for column, row in zip(self._free.columns, rows, strict=True)
        ]

    # -- its life ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {
            "gradients": self._gradients,
            "row_variance": self._row_variance,
            "steps": self.steps,
            "refused": self.refused,
            "unlearned": self._unlearned,
            "center": self._center,
            "start": self._start,
            "scale": self._scale,
            "gains": self._gains,
            "gaps": self._gaps,
            "cost": self._cost,
            "audit": self._audit,
            "holding": self._holding,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self._gradients.copy_(state["gradients"])
        self._row_variance.copy_(state["row_variance"])
        self.steps, self.refused = int(state["steps"]), int(state["refused"])
        self._unlearned = int(state["unlearned"])
        like = self._gradients.device
        self._center, self._start = (
            None if state[key] is None else state[key].to(like).clone()
            for key in ("center", "start")
        )
        self._scale = state["scale"].to(like).clone()
        self._gains = [list(pair) for pair in state["gains"]]
        self._gaps = [list(losses) for losses in state["gaps"]]
        self._cost, self._audit = dict(state["cost"]), dict(state["audit"])
        self._holding = list(state["holding"])
