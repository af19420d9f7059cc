"""Every combination once: the tree of choices that grid and brute force walk.

A trial is a path through a tree whose levels are the parameters in the order they were suggested
and whose branches are their values. The next trial turns, at each level, into the unfinished branch
that fewest trials have entered. The trials are all it remembers, so it goes on where it stopped,
and a parameter that exists on some branches only is a level of those branches.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.samplers._branches import Branches, branches_in, branches_of, endless
from hpo.samplers._dice import seeded
from search_spaces.domains import Domain

Path: TypeAlias = Sequence[tuple[str, BaseDistribution, float]]

_ENTERED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


class Exhaustive(BaseSampler):
    """Tries the values of every parameter (with `points`, so many of each range), combined.

    Without `points`, a parameter with endless values is drawn at random and adds no branches.
    """

    def __init__(
        self, seed: int, points: int | None, coordinates: Mapping[str, Domain] | None = None
    ) -> None:
        self._points = points
        self._coordinates = coordinates or {}
        self._known: dict[str, tuple[BaseDistribution, Branches]] = {}
        self._dice = random.Random(seed)
        self._random = seeded(RandomSampler(), seed)

    def reseed_rng(self) -> None:
        self._dice.seed()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        branches = self._branches(param_name, param_distribution)
        if branches is None:
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        turns = {
            name: trial.distributions[name].to_internal_repr(value)
            for name, value in trial.params.items()
            if self._branching(trial.distributions[name])
        }
        others = [other for other in _entered(study) if other.number != trial.number]
        entered = _at_level(self._paths(others, turns), 0, param_name)
        unfinished = [b for b in branches if self._unfinished(entered.get(b, ()), 1)] or branches
        fewest = min(len(entered.get(branch, ())) for branch in unfinished)
        least = [branch for branch in unfinished if len(entered.get(branch, ())) == fewest]
        # Not `choice`: only `random` itself gives the same in every version of Python.
        return param_distribution.to_external_repr(least[int(self._dice.random() * len(least))])

    def exhausted(self, study: Study) -> bool:
        """Whether every branch has been entered."""
        return not self._unfinished(self._paths(_entered(study), {}), 0)

    def _branching(self, known: BaseDistribution) -> bool:
        return self._points is not None or not endless(known)

    def _branches(self, name: str, known: BaseDistribution) -> Branches:
        found = self._known.get(name)
        if found is None or found[0] != known:
            domain = self._coordinates.get(name)
            fresh = branches_in(domain, self._points) if domain else None
            found = known, branches_of(known, self._points) if fresh is None else fresh
            self._known[name] = found
        return found[1]

    def _paths(self, trials: Sequence[FrozenTrial], turns: Mapping[str, float]) -> list[Path]:
        """The ways of the trials that took all these turns, from there on."""
        return [
            [
                (name, known, known.to_internal_repr(trial.params[name]))
                for name, known in trial.distributions.items()
                if name not in turns and self._branching(known)
            ]
            for trial in trials
            if all(_took(trial, name, turn) for name, turn in turns.items())
        ]

    def _unfinished(self, paths: Sequence[Path], depth: int) -> bool:
        """Whether some branch below this point has not been entered."""
        longer = [path for path in paths if len(path) > depth]
        if not longer:
            return not paths
        name, known, _ = longer[-1][depth]
        entered = _at_level(longer, depth, name)
        branches = self._branches(name, known) or ()
        return any(self._unfinished(entered.get(branch, ()), depth + 1) for branch in branches)


def _entered(study: Study) -> list[FrozenTrial]:
    """The trials that took a path, from the storage itself: under a Hyperband pruner the study
    shows the trials of one bracket only."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False, states=_ENTERED)


def _took(trial: FrozenTrial, name: str, turn: float) -> bool:
    known = trial.distributions.get(name)
    return known is not None and known.to_internal_repr(trial.params[name]) == turn


def _at_level(paths: Sequence[Path], depth: int, name: str) -> dict[float, list[Path]]:
    """The paths that come to this parameter at this depth, by the branch they take."""
    entered: dict[float, list[Path]] = {}
    for path in paths:
        if len(path) > depth and path[depth][0] == name:
            entered.setdefault(path[depth][2], []).append(path)
    return entered
