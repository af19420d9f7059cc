"""A bounded view of a study, for samplers whose proposals cost more with every trial."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

BEST = 25  # as many as Optuna's TPE ever counts as good

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class WindowedTPE(TPESampler):
    """TPE that sees, of more than `window` ended trials, the best and the latest alone."""

    window: int

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._bounded(study), trial)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super()._sample(self._bounded(study), trial, search_space)

    def _bounded(self, study: Study) -> Study:
        seen: Any = _Bounded(study, self.window)
        return seen  # type: ignore[no-any-return]


def bounded(trials: list[FrozenTrial], window: int, direction: StudyDirection) -> list[FrozenTrial]:
    """Of the trials, in order, those that run, and of the ended ones at most `window`: the best
    and the latest. A function of the history alone, so that a resumed study sees the same."""
    ended = [trial for trial in trials if trial.state in _ENDED]
    if len(ended) <= window:
        return trials
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    best = heapq.nsmallest(min(BEST, window), ended, key=lambda trial: _rank(trial, sign))
    numbers = {trial.number for trial in best}
    for trial in reversed(ended):
        if len(numbers) == window:
            break
        numbers.add(trial.number)
    return [trial for trial in trials if trial.state not in _ENDED or trial.number in numbers]


def _rank(trial: FrozenTrial, sign: int) -> tuple[float, ...]:
    """The order in which TPE counts trials as good: completed by value, then pruned ones, those
    first that came far."""
    if trial.state == TrialState.COMPLETE:
        return 0, 0, sign * (trial.value or 0.0)
    if not trial.intermediate_values:
        return 1, 1, 0
    step, value = max(trial.intermediate_values.items())
    return 1, -step, math.inf if math.isnan(value) else sign * value


class _Bounded:
    """A study of whose trials only some are seen; in all else the study."""

    def __init__(self, study: Study, window: int) -> None:
        self._whole, self._window = study, window

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = self._whole._get_trials(deepcopy, states, use_cache)
        return bounded(trials, self._window, self._whole.direction)
