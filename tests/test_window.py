"""TPE in long studies: what its model is made of, and that a short study notices nothing."""

import random
from typing import Any

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import HpoError
from hpo.samplers import Request, at_ask, load, parse_options
from hpo.samplers._window import BEST, bounded
from search_spaces.domains import Float

X = {"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}
UNIT = optuna.distributions.FloatDistribution(0.0, 1.0)


def history(count: int, complete: float = 0.8, seed: int = 0) -> list[FrozenTrial]:
    """Trials that ended well, were pruned or failed, some with one value; some still run."""
    dice = random.Random(seed)
    trials = []
    for number in range(count):
        kind, value = dice.random(), round(dice.random(), 2)
        params = {name: dice.random() for name in X}
        about: dict[str, Any] = {"params": params, "distributions": dict.fromkeys(X, UNIT)}
        if kind < complete:
            trial = create_trial(value=value, **about)
        elif kind < 0.95:
            reached = {step: value for step in range(dice.randint(0, 3))}
            pruned = TrialState.PRUNED
            trial = create_trial(state=pruned, intermediate_values=reached, **about)
        else:
            trial = create_trial(state=TrialState.RUNNING if kind > 0.99 else TrialState.FAIL)
        trial.number = number
        trials.append(trial)
    return trials


def ended(trials: Any) -> list[FrozenTrial]:
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]


@pytest.mark.parametrize("direction", [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
@pytest.mark.parametrize("complete", [0.8, 0.02])
def test_what_counts_as_good_is_what_counts_in_the_whole_study(
    direction: StudyDirection, complete: float
) -> None:
    trials = history(1000, complete)
    study = optuna.create_study(direction=direction.name.lower())

    def good(seen: list[FrozenTrial]) -> list[int]:
        below, _ = _split_trials(study, seen, default_gamma(len(seen)))
        return [trial.number for trial in below]

    assert len(good(ended(trials))) == BEST
    assert good(ended(bounded(trials, 250, direction))) == good(ended(trials))


def test_beyond_the_window_the_best_and_the_latest_are_seen_in_order() -> None:
    trials = history(1000)
    seen = list(bounded(trials, 300, StudyDirection.MINIMIZE))
    assert [t.number for t in seen] == sorted(t.number for t in seen)
    assert len(ended(seen)) == 300
    assert {t.number for t in ended(trials)[-275:]} <= {t.number for t in seen}
    running = [t for t in trials if t.state == TrialState.RUNNING]
    assert running and all(t in seen for t in running)


def test_up_to_the_window_all_is_seen() -> None:
    trials = history(300)
    assert bounded(trials, len(ended(trials)), StudyDirection.MINIMIZE) is trials


def proposed(trials: list[FrozenTrial], window: int) -> dict[str, Any]:
    study = optuna.create_study()
    study.add_trials([trial for trial in trials if trial.state != TrialState.RUNNING])
    sampler = load("tpe")
    request = Request(X, parse_options(sampler, {"window": window}))
    number = len(study.trials)
    study.sampler = at_ask(sampler, study_seed=1, number=number, request=request)
    trial = study.ask()
    return {name: trial.suggest_float(name, 0.0, 1.0) for name in X}


def test_a_proposal_depends_on_the_window_only_beyond_it() -> None:
    short, long = history(240), history(700)
    assert proposed(short, 250) == proposed(short, 5000)
    assert proposed(long, 250) == proposed(long, 250) != proposed(long, 5000)


def test_a_window_too_small_for_what_counts_as_good_is_refused() -> None:
    with pytest.raises(HpoError, match="window is 100; it must be at least 250"):
        parse_options(load("tpe"), {"window": 100}, "tpe")
