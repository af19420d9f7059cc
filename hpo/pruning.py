"""Whether a running trial should end early, asked of an Optuna pruner at every new step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import optuna

from hpo import ledger, pruners
from objectives.training.measurement import Measurement


class Pruning:
    """The pruner of a study.

    What it decides lies in the ledger together with what it decided on, so that a trial that was
    interrupted and gives its steps again gets the answers that it got before.
    """

    def __init__(
        self,
        study: optuna.Study,
        prune: str | dict[str, Any],
        metric: str,
        in_one_piece: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._study, self._storage = study, study._storage
        self._prune, self._metric, self._in_one_piece = prune, metric, in_one_piece
        steps = study.user_attrs.get(ledger.STEPS)
        self._built = prune == "none" or steps is not None
        if steps is not None:
            study.pruner = pruners.build(prune, *steps)

    def ends(self, trial_id: int, measurement: Measurement) -> bool:
        """Reports the measurement; True if the trial should end here."""
        if self._prune == "none":
            return False
        if not self._built:
            self._build(measurement)
        trial = self._storage.get_trial(trial_id)
        decided = trial.user_attrs.get(ledger.PRUNED_AT)
        if decided is not None:
            return measurement.step >= int(decided)
        if trial.last_step is not None and measurement.step <= trial.last_step:
            return False  # it was here before, and went on
        with self._in_one_piece():
            self.report(trial_id, measurement)
            if measurement.progress >= 1.0:
                return False  # it has come to its end: there is nothing left to save
            ends = self._study.pruner.prune(self._study, self._storage.get_trial(trial_id))
            if ends:
                self._storage.set_trial_user_attr(trial_id, ledger.PRUNED_AT, measurement.step)
        return ends

    def report(self, trial_id: int, measurement: Measurement) -> None:
        """Puts the metric at this step into the ledger."""
        value = measurement.metrics[self._metric]
        self._storage.set_trial_intermediate_value(trial_id, measurement.step, value)

    def _build(self, measurement: Measurement) -> None:
        """Pruners count in steps: only the first measurement tells how far apart they are."""
        share = measurement.progress
        last = round(measurement.step / share) if share else None
        self._study.set_user_attr(ledger.STEPS, [measurement.step, last])
        self._study.pruner = pruners.build(self._prune, measurement.step, last)
        self._built = True
