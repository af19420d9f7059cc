"""What stands beside a self-tuning run and looks: does the response gain, what does it cost, does
the gradient agree with training from copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hpo.bilevel import checks
from hpo.bilevel.audit import audit, from_run
from hpo.bilevel.diagnostics import Diagnostics

if TYPE_CHECKING:
    from hpo.bilevel.selftuning import SelfTuning
    from objectives.training.state import Run

_LOOK_EVERY = 25  # steps of the knobs: a look at the response costs as much as four forward passes
_AUDIT_STEPS, _AUDIT_DISTANCE = 50, 0.5  # training steps, and free units
_PLAIN_BATCHES = 10  # training batches by which the plain training loss is told


class Observer:
    """Looks at a tuner from time to time and keeps its diagnostics.

    tunings: how many steps of the knobs the run will have. `aside` holds the free knobs while an
    audit trains beside the centre; the tuner then gives these and learns nothing.
    """

    def __init__(self, tuner: SelfTuning, run: Run, tunings: int, audits: int) -> None:
        self._tuner = tuner
        self.diagnostics = Diagnostics(tuner.free, tuner.options, checks.rows_of(run, "validation"))
        self.aside: Tensor | None = None
        self._audits = {tunings * (k + 1) // (audits + 1) for k in range(audits)}
        self._look_every = min(_LOOK_EVERY, max(5, tunings // 4))

    def tune(self, run: Run) -> None:
        """Has the tuner make a step of the knobs; now and then looks at what that is worth."""
        count = self.diagnostics.steps + 1
        first = count == self._look_every
        begun = checks.clock(run) if first else 0.0
        self._tuner.tune(run)
        if count % self._look_every == 0:
            self._look(run, checks.clock(run) - begun if first else None)
        if count in self._audits:
            self._audit(run)

    def measured(self, run: Run, rows: int, metrics: Mapping[str, float]) -> None:
        """Takes in the losses on the held-out splits, and asks for the plain training loss."""
        train = checks.plain_loss(run, "train", _PLAIN_BATCHES * max(1, rows))
        self.diagnostics.gap(train, metrics["val_loss"], metrics.get("holdout_loss"))

    def _look(self, run: Run, seconds: float | None) -> None:
        """The gain of the response on one batch; with the seconds of a step, also its cost."""
        tuner, batch = self._tuner, run.next_batch("train")
        center, scale = tuner.descent.center, tuner.descent.scale
        drawn = tuner.perturbation.draw(center, scale, len(batch.targets))
        other = tuner.perturbation.opposite(center, *drawn)
        offers = [self._offer(*drawn), self._offer(*other)]
        self.diagnostics.gain(checks.response_gain(run, batch, offers))
        if seconds is not None:
            answers = tuner.response.parameters()
            step, plain = checks.step_seconds(run, batch, offers[0], answers)
            kept = checks.kept_bytes(answers, tuner.answers)
            self.diagnostics.cost(step, plain, seconds, tuner.every, kept)

    def _offer(self, delta: Tensor, strengths: Mapping[str, Any]) -> checks.Offer:
        tuner = self._tuner

        def switch(on: bool) -> None:
            tuner.response.delta = delta if on else None

        return {**tuner.held, **strengths}, switch

    def _audit(self, run: Run) -> None:
        tuner = self._tuner
        tuner.response.delta = None
        state = copy.deepcopy(run.state_dict())
        train_from = from_run(run, lambda point: setattr(self, "aside", point))
        center, slope = tuner.descent.center, self.diagnostics.direction()
        steps = min(_AUDIT_STEPS, run.training.steps - run.step)
        found = audit(train_from, state, center, slope, distance=_AUDIT_DISTANCE, steps=steps)
        run.load_state_dict(state)
        self.diagnostics.audited(found)
