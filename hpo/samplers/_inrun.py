"""The outer half of a sampler that tunes within a run: which trial is tuned, and from where.

Trial 0 trains the start values held fixed (`baseline`), so that a result has something to be
compared with. The next is tuned from the start values; every tuned trial is followed by one that
trains anew with its final values held (`hold`), because that is often the better model and always
the simpler recipe. Further tuned trials start where another sampler (`propose`) says, which also
chooses the knobs that cannot be tuned within a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.samplers._sampler import ROLE, InRunOptions, Request
from hpo.samplers._suggest import to_param
from search_spaces.domains import Point


class InRun(BaseSampler):
    """Decides a trial's role when it begins, writes it into the ledger, and proposes to match.

    final: the point at which an ended trial's knobs arrived.
    """

    def __init__(
        self, outer: BaseSampler, request: Request, final: Callable[[FrozenTrial], Point]
    ) -> None:
        self._outer, self._request, self._final = outer, request, final
        self._given: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return str(self._outer)

    def reseed_rng(self) -> None:
        self._outer.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._outer.before_trial(study, trial)
        role = trial.user_attrs.get(ROLE)
        if role is None:
            role = self._role(study.get_trials(deepcopy=False), trial.number)
            study._storage.set_trial_user_attr(trial._trial_id, ROLE, role)
        self._given = self._point(study.get_trials(deepcopy=False), role)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._outer.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        given = {name: self._given[name] for name in search_space if name in self._given}
        if len(given) == len(search_space):
            return given
        return {**self._outer.sample_relative(study, trial, search_space), **given}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name in self._given:
            return self._given[param_name]
        return self._outer.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._outer.after_trial(study, trial, state, values)

    def _role(self, trials: Sequence[FrozenTrial], number: int) -> str:
        options: InRunOptions = self._request.options
        if number == 0 and options.baseline:
            return "baseline"
        held = {t.user_attrs.get(ROLE) for t in trials}
        waiting = [
            t.number
            for t in trials
            if t.user_attrs.get(ROLE) == "tuned"
            and t.state == TrialState.COMPLETE
            and f"held {t.number}" not in held
        ]
        return f"held {waiting[0]}" if options.hold and waiting else "tuned"

    def _point(self, trials: Sequence[FrozenTrial], role: str) -> Mapping[str, Any]:
        """The parameters that the role prescribes; the others are the outer sampler's."""
        by_number = {trial.number: trial for trial in trials}
        if role.startswith("held "):
            tuned = by_number[int(role.removeprefix("held "))]
            return {**tuned.params, **self._params(self._final(tuned))}
        tuned_before = any(t.user_attrs.get(ROLE) == "tuned" for t in trials if t.params)
        if role == "tuned" and not tuned_before and 0 in by_number:
            return by_number[0].params
        return {}

    def _params(self, point: Point) -> dict[str, Any]:
        """A point as parameters of Optuna; without knobs that the study does not search."""
        found: dict[str, Any] = {}
        for name, value in point.items():
            parts = value if isinstance(value, tuple) else (value,)
            for place, part in enumerate(parts):
                coordinate = f"{name}[{place}]" if isinstance(value, tuple) else name
                if coordinate in self._request.coordinates:
                    domain = self._request.coordinates[coordinate]
                    found[coordinate] = to_param(domain, part)
        return found
