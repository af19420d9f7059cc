"""What stands beside a self-tuning run and looks: does the response gain, what does it cost, does
the gradient agree with training from copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpo.bilevel.diagnostics import checks
from hpo.bilevel.diagnostics.audit import audit, from_run
from hpo.bilevel.diagnostics.diagnostics import Diagnostics
from hpo.bilevel.stn.perturbation import Perturbation
from objectives.training.randomness import derived_seed

if TYPE_CHECKING:
    from hpo.bilevel.stn.selftuning import SelfTuning
    from objectives.training.state import Run

_LOOK_EVERY = 25  # steps of the knobs: a look at the response costs as much as four forward passes
_AUDIT_STEPS, _AUDIT_DISTANCE = 50, 0.5  # training steps, and free units
_PLAIN_BATCHES = 10  # training batches by which the plain training loss is told


def precision_of(run: Run) -> AbstractContextManager[None]:
    """What the training passes of a run are within: `autocast` of a loop of one's own makes such a
    context; without it there is none."""
    made: AbstractContextManager[None] = getattr(run, "autocast", nullcontext)()
    return made


class Observer:
    """Looks at a tuner from time to time and keeps its diagnostics.

    tunings: how many steps of the knobs the run will have. `aside` holds the free knobs while an
    audit trains beside the centre; the tuner then gives these and learns nothing. Looks draw from a
    generator of their own and at the batch of the last training step, so that a run goes on as it
    would without them.
    """

    def __init__(self, tuner: SelfTuning, run: Run, tunings: int, audits: int) -> None:
        self._tuner = tuner
        rows, steps = checks.rows_of(run, "validation"), run.training.steps
        self.diagnostics = Diagnostics(tuner.free, tuner.options, rows, steps)
        device = tuner.descent.center.device
        rng = torch.Generator(device).manual_seed(derived_seed(run.seed, "stn looks"))
        self._perturbation = Perturbation(tuner.free, rng)
        self.aside: Tensor | None = None
        self._audits = {tunings * (k + 1) // (audits + 1) for k in range(audits)}
        self._look_every = min(_LOOK_EVERY, max(5, tunings // 4))

    def look(self, run: Run) -> None:
        """Now and then the gain of the response; before it learns from the batch that is looked
        at, and before the step of the knobs that is due."""
        if (self.diagnostics.tried + 1) % self._look_every or not self._tuner.answered:
            return
        offers = self._offers(run)
        with precision_of(run):
            self.diagnostics.gain(checks.response_gain(run, run.batch, offers))
        self._tuner.response.delta = None

    def tune(self, run: Run) -> None:
        """Has the tuner make a step of the knobs; now and then tells what that costs, or audits."""
        count = self.diagnostics.tried + 1
        first = count == self._look_every
        begun = checks.clock(run) if first else 0.0
        self._tuner.tune(run)
        self._tuner.response.delta = None
        if first:
            self._cost(run, checks.clock(run) - begun)
        if count in self._audits:
            self._audit(run)

    def measured(self, run: Run, rows: int, metrics: Mapping[str, float]) -> None:
        """Takes in the losses on the held-out splits, and asks for the plain training loss."""
        train = checks.plain_loss(run, "train", _PLAIN_BATCHES * max(1, rows))
        self.diagnostics.gap(train, metrics["val_loss"], metrics.get("holdout_loss"))

    def state_dict(self) -> dict[str, Any]:
        """What has been seen, and the draws of the looks to come."""
        return {
            "diagnostics": self.diagnostics.state_dict(),
            "perturbation": self._perturbation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.diagnostics.load_state_dict(state["diagnostics"])
        self._perturbation.load_state_dict(state["perturbation"])

    def _cost(self, run: Run, seconds: float) -> None:
        """Takes the time of training steps, beside the seconds of a step of the knobs."""
        tuner = self._tuner
        answers = tuner.response.parameters()
        with precision_of(run):
            step, plain = checks.step_seconds(run, run.batch, self._offers(run)[0], answers)
        kept = checks.kept_bytes(answers, tuner.answers)
        self.diagnostics.cost(step, plain, seconds, tuner.every, kept)

    def _offers(self, run: Run) -> list[checks.Offer]:
        """One draw for the rows of the last training batch, and its opposite."""
        center, scale = self._tuner.descent.center, self._tuner.descent.scale
        drawn = self._perturbation.draw(center, scale, len(run.batch.targets))
        return [self._offer(*drawn), self._offer(*self._perturbation.opposite(center, *drawn))]

    def _offer(self, delta: Tensor, strengths: Mapping[str, Any]) -> checks.Offer:
        tuner = self._tuner

        def switch(on: bool) -> None:
            tuner.response.delta = delta if on else None

        return {**tuner.held, **strengths}, switch

    def _audit(self, run: Run) -> None:
        tuner = self._tuner
        state = copy.deepcopy(run.state_dict())
        train_from = from_run(run, lambda point: setattr(self, "aside", point))
        center, slope = tuner.descent.center, self.diagnostics.direction()
        steps = min(_AUDIT_STEPS, run.training.steps - run.step)
        found = audit(train_from, state, center, slope, distance=_AUDIT_DISTANCE, steps=steps)
        run.load_state_dict(state)
        self.diagnostics.audited(found)
