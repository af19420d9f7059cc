"""The samplers' options, refusals, points and safety; what all share is in conformance/."""

from __future__ import annotations

import math
import pickle
import statistics
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import cmaes
import numpy
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo import samplers
from hpo.samplers import Request, Sampler
from hpo.samplers._branches import branches_in, combinations
from hpo.samplers._suggest import distribution, from_param, suggest, to_param
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.space import SearchSpace

TWO_FLOATS = SearchSpace({"weight_decay": Float(1e-6, 1e-1, "log"), "dropout": Float(0, 0.7)})
CONDITIONAL = SearchSpace(
    {
        "optimizer": Choice(("sgd", "adamw", "none")),
        "momentum": Choice((0.0, 0.9), when={"optimizer": "sgd"}),
        "layers": Int(1, 3, when={"optimizer": ["sgd", "adamw"]}),
    }
)
CONDITIONAL_POINTS = 2 * 3 + 3 + 1


# -- by name ------------------------------------------------------------------------------------


def test_names_and_loading() -> None:
    assert {"random", "grid", "qmc", "tpe", "gp", "cmaes", "brute_force"} <= set(samplers.names())
    assert samplers.load("hpo.samplers.grid:SAMPLER") is samplers.load("grid")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cmeas", "unknown sampler 'cmeas', did you mean 'cmaes'?"),
        ("_exhaustive", "unknown sampler '_exhaustive'"),
        ("no_such_module:SAMPLER", "there is no module no_such_module"),
        ("hpo.samplers.grid:SAMPELR", "has no 'SAMPELR'"),
        ("hpo.samplers.grid:Options", "not a Sampler record"),
    ],
)
def test_what_is_no_sampler(name: str, message: str) -> None:
    with pytest.raises(HpoError) as caught:
        samplers.load(name)
    assert message in str(caught.value)
    assert caught.value.path == ("sampler",) and caught.value.hint


def test_installed_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "hpo.samplers"
    points = [
        EntryPoint("mine", "hpo.samplers.grid:SAMPLER", group),
        EntryPoint("broken", "no_such_module:SAMPLER", group),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    assert "mine" in samplers.names()
    assert samplers.load("mine") is samplers.load("grid")
    with pytest.raises(HpoError, match="sampler broken: its package cannot be loaded"):
        samplers.load("broken")


def test_names_and_options_load_no_optuna() -> None:
    program = (
        "import sys; from hpo import samplers\n"
        "for name in samplers.names(): samplers.parse_options(samplers.load(name), {}, name)\n"
        "print([name for name in ('optuna', 'numpy', 'torch', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


# -- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tpe", {"startup_trails": 3}, "unknown option 'startup_trails', did you mean"),
        ("random", {"points": 3}, "sampler random has no options"),
        ("tpe", {"startup_trials": "3"}, "startup_trials is '3'; it must be a whole number"),
        ("tpe", {"startup_trials": True}, "startup_trials is True; it must be a whole number"),
        ("tpe", {"startup_trials": 2.5}, "startup_trials is 2.5; it must be a whole number"),
        ("tpe", {"startup_trials": -1}, "startup_trials is -1; it must be at least 0"),
        ("tpe", {"startup_trials": None}, "startup_trials is empty; it must be a whole number"),
        ("tpe", {"group": True, "multivariate": False}, "group needs multivariate"),
        ("tpe", {"multivariate": 1}, "multivariate is 1; it must be true or false"),
        ("qmc", {"kind": "sobel"}, "kind is 'sobel'; it must be sobol or halton"),
        ("grid", {"points": 1}, "points is 1; it must be at least 2"),
        ("cmaes", {"sigma": 0}, "sigma is 0; it must be above 0"),
        ("cmaes", {"sigma": math.nan}, "sigma is nan; it must be a number"),
        ("cmaes", {"population": 3}, "population is 3; it must be at least 4"),
        ("cmaes", {"margin": True, "separable": True}, "separable and margin are variants"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HpoError) as caught:
        samplers.parse_options(samplers.load(name), options, name)
    assert message in str(caught.value)
    assert caught.value.path[0] == "sampler_options" and caught.value.path[-1] in options


def test_numbers_as_yaml_writes_them() -> None:
    """1e3 is a float in YAML, 1 an integer; both are meant as what the option is."""
    tpe = samplers.parse_options(samplers.load("tpe"), {"candidates": 1e3}, "tpe")
    assert tpe.candidates == 1000 and isinstance(tpe.candidates, int)
    found = samplers.parse_options(
        samplers.load("cmaes"), {"sigma": 1, "population": None}, "cmaes"
    )
    assert found.sigma == 1.0 and isinstance(found.sigma, float) and found.population is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tpe", {"multivariate": False}),
        ("tpe", {"group": True}),
        ("qmc", {"kind": "halton"}),
        ("qmc", {"scramble": False}),
        ("gp", {"deterministic": True}),
        ("cmaes", {"separable": True}),
        ("cmaes", {"margin": True}),
        ("cmaes", {"adapt_rate": True}),
        ("cmaes", {"pruned_trials": True, "population": 5, "sigma": 0.3}),
        ("grid", {"points": 3}),
    ],
)
def test_every_option_works_without_a_warning(name: str, options: dict[str, Any]) -> None:
    known = {"startup_trials": 2} if name in ("tpe", "gp", "cmaes") else {}
    study = optuna.create_study()
    points = _drive(study, name, TWO_FLOATS, 9 if name != "gp" else 4, 0, **known, **options)
    assert len({tuple(point.values()) for point in points}) == len(points)


# -- domains ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain",
    [
        Float(1e-6, 0.1, "log"),
        Float(-2, 3),
        Float(0.1, 0.9, "logit"),
        Float(0, 1, "log+0"),
        Int(-3, 4),
        Int(1, 1000, "log"),
        Choice(("a", 1, True, 2.5, None)),
        Choice((1, 2, "x")),
    ],
)
@given(unit=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_value_to_param_and_back(domain: Domain, unit: float) -> None:
    value = domain.from_unit(unit)
    param = to_param(domain, value)
    known = distribution(domain)
    assert known._contains(known.to_internal_repr(param))
    again = from_param(domain, known.to_external_repr(known.to_internal_repr(param)))
    assert type(again) is type(value)
    assert again == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_off_outside_the_range_is_enqueued_as_the_nearest_end() -> None:
    assert to_param(Float(1e-6, 0.1, "log", off=0.0), 0.0) == 1e-6
    assert to_param(Int(2, 5, off=0), 0) == 2


# -- refusals -----------------------------------------------------------------------------------

MIXED = {"dropout": Float(0, 1), "optimizer": Choice(("sgd", "adamw"))}


@pytest.mark.parametrize(
    ("name", "space", "options", "message"),
    [
        ("brute_force", TWO_FLOATS, {}, "cannot search weight_decay: a real number has endless"),
        ("brute_force", {"a": Int(1, 10**9)}, {}, "cannot search a: it has 1,000,000,000 values"),
        ("brute_force", {"a": Int(1, 999), "b": Int(1, 999)}, {}, "would need 998,001 trials"),
        ("grid", {f"k{i}": Float(0, 1) for i in range(12)}, {}, "would need 244,140,625 trials"),
        ("cmaes", {"optimizer": Choice(("a", "b"))}, {}, "cannot search optimizer: it is a list"),
        ("cmaes", MIXED, {}, "cannot search optimizer: it is a list of options"),
        (
            "gp",
            {**MIXED, "momentum": Float(0, 1, when={"optimizer": "sgd"})},
            {},
            "cannot search momentum: it depends on optimizer",
        ),
        (
            "cmaes",
            {**MIXED, "momentum": Float(0, 1, when={"optimizer": "sgd"})},
            {},
            "cannot search",
        ),
    ],
)
def test_refused_spaces(
    name: str, space: Mapping[str, Domain], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HpoError) as caught:
        samplers.optuna_sampler(name, space=space, **options)
    assert message in caught.value.message and caught.value.hint
    assert caught.value.code == "refused" and caught.value.path == ("sampler",)


def test_knobs_that_cmaes_may_draw_at_random() -> None:
    points = _drive(optuna.create_study(), "cmaes", SearchSpace(MIXED), 12, 0, others="random")
    assert {point["optimizer"] for point in points} == {"sgd", "adamw"}


def test_a_tuner_may_have_many_coordinates() -> None:
    """What is tuned in the run is not proposed point by point, so its number does not matter."""
    record = Sampler(samplers.load("random").propose, tune=object)
    space = SearchSpace({f"l{k}": Float(1e-6, 1, "log", size=60) for k in range(50)})
    samplers.check(record, "mine", Request(space.coordinates()))


# -- grid and brute force -----------------------------------------------------------------------


def test_grid_is_even_on_the_scale_with_exact_zero() -> None:
    assert _values(Float(1e-4, 1, "log"), 5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert _values(Float(0, 1), 3) == [0, 0.5, 1]
    assert _values(Float(1e-3, 1, "log+0"), 5) == pytest.approx([0, 1e-3, 1e-2, 1e-1, 1])
    assert _values(Float(0, 1, "log+0"), 30)[:2] == pytest.approx([0, 1e-6])
    assert _values(Float(0, 1, "log+0"), 2) == [0, 1]
    assert _values(Float(0.1, 0.9, "logit"), 3) == pytest.approx([0.1, 0.5, 0.9])
    assert _values(Int(1, 4), 5) == [1, 2, 3, 4]
    assert _values(Int(0, 100), 5) == [0, 25, 50, 75, 100]
    assert _values(Int(1, 10_000, "log"), 5) == [1, 10, 100, 1000, 10_000]
    assert _values(Choice(tuple("abcdefg")), 3) == list("abcdefg")


def test_a_start_on_the_grid_is_not_run_twice() -> None:
    """Zero of log+0 has many places in the unit interval; the enqueued one is the grid's."""
    space = SearchSpace({"noise": Float(1e-3, 1, "log+0", start=0.0)})
    study = optuna.create_study()
    study.enqueue_trial({"noise": to_param(space["noise"], 0.0)})
    points = _drive(study, "grid", space, 5, 0)
    assert sorted(p["noise"] for p in points) == pytest.approx([0, 1e-3, 1e-2, 1e-1, 1])


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_every_combination_once_with_conditions(name: str) -> None:
    study = optuna.create_study()
    points = _drive(study, name, CONDITIONAL, CONDITIONAL_POINTS, 5)
    assert len({tuple(sorted(point.items())) for point in points}) == CONDITIONAL_POINTS
    request = Request(CONDITIONAL.coordinates(), samplers.parse_options(samplers.load(name), {}))
    assert samplers.exhausted(samplers.load(name), study, request)
    assert combinations(CONDITIONAL.coordinates(), 5) == CONDITIONAL_POINTS


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    parents=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_tree_is_counted_and_walked_to_its_end(
    sizes: list[int], parents: list[int], seed: int
) -> None:
    """Knob i may hang on a value of an earlier one; every point comes once, then nothing more."""
    domains: dict[str, Domain] = {}
    for index, size in enumerate(sizes):
        when = {f"k{parents[index]}": 1} if parents[index] < index else {}
        domains[f"k{index}"] = Choice(tuple(range(size + 1)), when=when)
    space = SearchSpace(domains)
    count = combinations(space.coordinates(), None)
    study = optuna.create_study()
    points = _drive(study, "brute_force", space, count, seed)
    assert len({tuple(sorted(point.items())) for point in points}) == count
    request = Request(space.coordinates())
    assert samplers.exhausted(samplers.load("brute_force"), study, request)


def test_failed_trials_are_not_repeated() -> None:
    study, space = optuna.create_study(), SearchSpace({"a": Int(1, 6)})
    request = Request(space.coordinates())
    found = []
    for number in range(6):
        study.sampler = samplers.at_ask("brute_force", study_seed=0, number=number, request=request)
        trial = study.ask()
        found.append(suggest(trial, request.coordinates)["a"])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]


def test_a_budget_that_ends_early_is_spread_evenly() -> None:
    points = _drive(optuna.create_study(), "grid", TWO_FLOATS, 10, 0, points=5)
    found = [point["weight_decay"] for point in points]
    assert sorted(found.count(value) for value in set(found)) == [2, 2, 2, 2, 2]


def test_optimize_ends_with_the_grid_only_if_the_space_is_known() -> None:
    def objective(trial: optuna.Trial) -> float:
        return float(trial.suggest_int("a", 1, 3))

    space = {"a": Int(1, 3)}
    study = optuna.create_study(sampler=samplers.optuna_sampler("grid", space=space, seed=1))
    study.optimize(objective)
    assert sorted(trial.params["a"] for trial in study.trials) == [1, 2, 3]

    study = optuna.create_study(sampler=samplers.optuna_sampler("brute_force", seed=1))
    study.optimize(objective, n_trials=6)
    assert sorted(trial.params["a"] for trial in study.trials) == [1, 1, 2, 2, 3, 3]


def test_brute_force_draws_what_it_cannot_count() -> None:
    """In a script whose space is not known: real numbers vary beside every combination."""

    def objective(trial: optuna.Trial) -> float:
        real = trial.suggest_float("real", 0, 1)
        return real + trial.suggest_int("a", 1, 2) + trial.suggest_int("b", 1, 2)

    study = optuna.create_study(sampler=samplers.optuna_sampler("brute_force", seed=1))
    study.optimize(objective, n_trials=4)
    assert len({(t.params["a"], t.params["b"]) for t in study.trials}) == 4
    assert len({t.params["real"] for t in study.trials}) == 4


def test_a_space_with_many_parents_is_counted_in_time() -> None:
    domains: dict[str, Domain] = {f"p{i}": Int(1, 9) for i in range(30)}
    domains |= {f"c{i}": Int(1, 9, when={f"p{i}": 1}) for i in range(30)}
    with pytest.raises(HpoError, match="at least"):
        samplers.optuna_sampler("brute_force", space=domains)


# -- sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sobol", "halton"])
def test_rebuilt_samplers_go_on_in_one_sequence(kind: str) -> None:
    """Of 16 Sobol points each lies in a box of its own of a 4 by 4 lattice."""
    points = _drive(optuna.create_study(), "qmc", TWO_FLOATS, 16, 3, kind=kind)
    boxes = {
        tuple(int(4 * TWO_FLOATS[name].to_unit(value)) for name, value in point.items())
        for point in points
    }
    assert len(boxes) == 16 if kind == "sobol" else len(boxes) >= 12


# -- the state of CMA-ES ------------------------------------------------------------------------


class _Forged:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def _state(**attributes: Any) -> cmaes.CMA:
    state = cmaes.CMA(mean=numpy.full(2, 0.5), sigma=0.1, bounds=numpy.array([[0.0, 1.0]] * 2))
    vars(state).update(attributes)
    return state


@pytest.mark.parametrize(
    "forge",
    [
        lambda path: pickle.dumps(_Forged(exec, (f"open({path!r}, 'w').close()",))),
        lambda path: pickle.dumps(_Forged(Path.touch, (Path(path),))),
        lambda path: pickle.dumps(_state(_sigma=_Forged(exec, (f"open({path!r}, 'w')",)))),
        lambda path: pickle.dumps(_state(_mean=numpy.array([_Forged(exec, ("1",))]))),
        lambda path: pickle.dumps(_state(tell=numpy.ndarray)),
        lambda path: pickle.dumps(_state(_mean=numpy.array([{}, None]))),
        lambda path: pickle.dumps({"a": 1}),
        lambda path: pickle.dumps(_state())[:-20],
        lambda path: b"",
        # A pickle may look an attribute up with dots, from an allowed class to anywhere.
        lambda path: b"\x80\x04\x8c\x0bcmaes._cma\x94\x8c\x0bmath.sqrt\x94\x93\x94.",
    ],
)
def test_a_forged_state_executes_nothing(forge: Any, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    study = optuna.create_study()
    _drive(study, "cmaes", TWO_FLOATS, 3, 0)
    text = forge(str(target)).hex()
    study._storage.set_trial_system_attr(study.ask()._trial_id, "cma:optimizer:0", text)
    study.tell(3, 1.0, skip_if_finished=True)
    with pytest.raises(HpoError, match="trial 3 carries a state of CMA-ES") as caught:
        _drive(study, "cmaes", TWO_FLOATS, 1, 0)
    assert "nothing in it was executed" in caught.value.hint
    assert not target.exists()


@pytest.mark.parametrize(
    "options", [{}, {"separable": True}, {"margin": True}, {"adapt_rate": True}]
)
def test_a_true_state_is_restored(options: dict[str, Any]) -> None:
    """The third generation of every variant rests on a state read from the journal."""
    study = optuna.create_study()
    space = SearchSpace({**TWO_FLOATS, "layers": Int(1, 9)})
    _drive(study, "cmaes", space, 16, 0, population=4, **options)
    generations = {
        value
        for trial in study.trials
        for key, value in trial.system_attrs.items()
        if key.endswith(":generation")
    }
    assert generations == {0, 1, 2, 3}


def test_the_first_cloud_lies_around_the_start() -> None:
    space = SearchSpace({"weight_decay": Float(1e-6, 1e-1, "log", start=1e-2), "b": Float(0, 1)})
    points = _drive(optuna.create_study(), "cmaes", space, 9, 0, sigma=0.02, population=8)
    assert all(3e-3 < point["weight_decay"] < 3e-2 for point in points[1:])


# -- quality ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trials", "seeds"), [("tpe", 40, 5), ("cmaes", 60, 5), ("gp", 15, 3)]
)
def test_models_beat_random_points(name: str, trials: int, seeds: int) -> None:
    """On a tilted bowl the best of a model is less than half as far from the bottom."""

    def best(sampler: str, seed: int) -> float:
        points = _drive(optuna.create_study(), sampler, TWO_FLOATS, trials, seed)
        return min(map(_bowl, points))

    found = statistics.median(best(name, seed) for seed in range(seeds))
    assert found < 0.5 * statistics.median(best("random", seed) for seed in range(seeds))


def test_neighbouring_trials_and_seeds_differ() -> None:
    request = Request(TWO_FLOATS.coordinates())
    firsts = set()
    for seed in range(12):
        for number in range(12):
            study = optuna.create_study()
            study.sampler = samplers.at_ask(
                "random", study_seed=seed, number=number, request=request
            )
            firsts.add(suggest(study.ask(), request.coordinates)["dropout"])
    assert len(firsts) == 144
    assert statistics.mean(firsts) == pytest.approx(0.35, abs=0.04)


def _bowl(point: Mapping[str, Any]) -> float:
    a, b = math.log10(point["weight_decay"]) + 2.2, (point["dropout"] - 0.45) / 0.1
    return a * a + 0.3 * a * b + b * b / 4


def _values(domain: Domain, points: int) -> list[Any]:
    known = distribution(domain)
    branches = branches_in(domain, points) or ()
    return [from_param(domain, known.to_external_repr(branch)) for branch in branches]


def _drive(
    study: optuna.Study, name: str, space: SearchSpace, trials: int, seed: int, **options: Any
) -> list[dict[str, Any]]:
    """Trials asked and told one by one, the sampler built anew for each."""
    sampler = samplers.load(name)
    parsed = samplers.parse_options(sampler, options, name)
    request = Request(space.coordinates(), parsed, trials)
    points: list[dict[str, Any]] = []
    for _ in range(trials):
        number = len([t for t in study.trials if t.state != optuna.trial.TrialState.WAITING])
        study.sampler = samplers.at_ask(sampler, study_seed=seed, number=number, request=request)
        trial = study.ask()
        points.append(suggest(trial, request.coordinates))
        value = (
            _bowl(points[-1]) if "weight_decay" in points[-1] and "dropout" in points[-1] else 1.0
        )
        study.tell(trial, value)
    return points
