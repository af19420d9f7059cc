"""One face for every sampler: points are drawn whole, for studies with one objective."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState


class Relative(BaseSampler):
    """The sampler `inner`, completed to what a study may ask of any sampler.

    Parameters of a joint draw that `inner` leaves out (a random sampler leaves out all of them, a
    model-based one does while it has no model) are drawn by it one at a time. With `joint`, the
    parameters drawn together are known from the first trial on and need not be inferred from the
    history at each. With `ends`, an `optimize` loop is stopped once that holds.
    """

    def __init__(
        self,
        inner: BaseSampler,
        joint: Mapping[str, BaseDistribution] | None = None,
        ends: Callable[[Study], bool] | None = None,
    ) -> None:
        self._inner = inner
        self._joint = joint
        self._ends = ends

    def __str__(self) -> str:
        return str(self._inner)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._joint is not None:
            return dict(self._joint)
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._refuse_several_objectives(study)
        drawn = dict(self._inner.sample_relative(study, trial, search_space))
        missing = [name for name in search_space if name not in drawn]
        if missing:
            # What was drawn is put into a copy: brute force looks there for the branch it is on.
            partial = copy.copy(trial)
            partial.params = {**trial.params, **drawn}
            partial.distributions = {
                **trial.distributions,
                **{name: search_space[name] for name in drawn},
            }
            for name in missing:
                known = search_space[name]
                drawn[name] = self._inner.sample_independent(study, partial, name, known)
                partial.params[name], partial.distributions[name] = drawn[name], known
        return drawn

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        self._refuse_several_objectives(study)
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)
        if self._ends is not None and self._ends(study):
            # Outside `optimize` there is no loop to stop, and Optuna says so by raising.
            with suppress(RuntimeError):
                study.stop()

    def _refuse_several_objectives(self, study: Study) -> None:
        if len(study.directions) > 1:
            raise ValueError(
                f"{self} minimizes or maximizes one value, this study has "
                f"{len(study.directions)} objectives"
            )
