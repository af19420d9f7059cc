"""A bounded view of a study, for a sampler whose proposals cost more with every trial it sees."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Sequence
from functools import cached_property
from typing import Any

import numpy
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
        return super().infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seen = self._seen(study)
        return super().sample_independent(seen, trial, param_name, param_distribution)

    def _seen(self, study: Study) -> Study:
        several = len(study.directions) > 1  # then Optuna's own refusal, or its own choice
        seen: Any = study if several else _Bounded(study, self.window)
        return seen  # type: ignore[no-any-return]


def bounded(
    trials: Sequence[FrozenTrial], window: int, direction: StudyDirection
) -> Sequence[FrozenTrial]:
    """Of the trials, in order, those that run, and of the ended ones at most `window`: the best
    and the latest. A function of the history alone, so that a resumed study sees the same."""
    ended = [trial for trial in trials if trial.state in _ENDED]
    if len(ended) <= window:
        return trials
    kept = {trial.number: trial for trial in _best(ended, direction)}
    for trial in reversed(ended):
        if len(kept) == window:
            break
        kept[trial.number] = trial
    others = [trial for trial in trials if trial.state not in _ENDED]
    return sorted([*kept.values(), *others], key=lambda trial: trial.number)


def _best(ended: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """The trials that TPE counts as good: completed ones by value, then pruned ones, those first
    that came far."""
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    # Not Trial.value, which looks at several things before it answers, nor pairs to sort, which
    # set off the garbage collector: with 10 000 trials either takes longer than the model.
    values = numpy.array([trial._values[0] for trial in complete])  # type: ignore[index]
    best = [complete[place] for place in numpy.argsort(sign * values, kind="stable")[:BEST]]
    if len(best) < BEST:
        pruned = [trial for trial in ended if trial.state == TrialState.PRUNED]
        best += heapq.nsmallest(BEST - len(best), pruned, lambda trial: _progress(trial, sign))
    return best


def _progress(trial: FrozenTrial, sign: int) -> tuple[float, float]:
    if not trial.intermediate_values:
        return 1, 0.0
    step, value = max(trial.intermediate_values.items())
    return -step, math.inf if math.isnan(value) else sign * value


class _Bounded:
    """A study of whose trials only some are seen, as they are when they are first looked at; in all
    else the study."""

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
        return [trial for trial in self._trials if states is None or trial.state in states]

    @cached_property
    def _trials(self) -> Sequence[FrozenTrial]:
        whole = self._whole._get_trials(deepcopy=False)
        return bounded(whole, self._window, self._whole.direction)
