"""Populations: how knobs are inherited, what a member that took another over is, and the whole of
it on a cluster.

Run as a program with a folder, it is a driver that a test can kill.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import events, opened, outcomes, resume, run, table, until

from hpo import lineage
from hpo.cli import cli
from hpo.engines._ray.execution import told
from hpo.engines._ray.population import Population, point
from hpo.errors import HpoError
from hpo.launch import launch
from hpo.lineage import Lineage
from hpo.preparation import Launch, prepare, spec_from_keywords
from hpo.problem import load
from hpo.result import Result, open_study
from hpo.samplers import pb2, pbt
from hpo.samplers._population import Evolution
from hpo.trial import Outcome, Plan, follow
from objectives.training.measurement import Measurement
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

DOMAINS: dict[str, Domain] = {
    "linear": Float(-2, 3, start=0),
    "from zero": Float(0, 0.7, start=0.1),
    "log": Float(1e-6, 1e-1, "log"),
    "logit": Float(0.5, 0.999, "logit"),
    "log+0": Float(0, 1, "log+0"),
    "int": Int(0, 9),
    "int log": Int(1, 300, "log"),
    "choice": Choice(("a", True, 1, None)),
}
DIGITS: dict[str, Any] = {
    "objective": "digits",
    "space": ["weight_decay", "input_noise", "learning_rate"],
    "steps": 80,
    "training": {"evaluations": 8},
    "sampler": "pbt",
    "sampler_options": {"interval": 0.25},
    "trials": 4,
    "engine": "ray",
    "workers": 2,
    "mlflow": False,
    "seed": 3,
}
TASK = {"space": ["weight_decay", "input_noise", "learning_rate"], "steps": 60}


# -- knobs ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.sampled_from(list(DOMAINS)),
    st.floats(0, 1),
    st.lists(st.one_of(st.sampled_from([1.2, 0.8, 5.0, 0.01]), st.floats(0, 1)), max_size=8),
)
def test_what_an_heir_gets_lies_inside_the_domain(
    name: str, place: float, changes: list[float]
) -> None:
    domain = DOMAINS[name]
    by_factor = by_model = domain.from_unit(place)
    for change in changes:
        held = pbt.hold(domain, by_factor)
        made = 0 if isinstance(domain, Choice) else held * change
        by_factor = pbt.give(domain, pbt.explored(domain, held, made))
        assert domain.contains(by_factor)
        held = pb2.hold(domain, by_model)
        by_model = pb2.give(domain, pb2.explored(domain, held, change))
        assert domain.contains(by_model)


def changed(name: str, value: Any, factor: float) -> Any:
    domain = DOMAINS[name]
    held = pbt.hold(domain, value)
    return pbt.give(domain, pbt.explored(domain, held, held * factor))


def test_no_value_is_stuck_where_no_factor_moves_it() -> None:
    assert 1e-6 <= changed("log+0", 0.0, 0.8) < 1e-5
    assert changed("log+0", 1e-6, 0.8) == 0.0
    assert changed("from zero", 0.0, 1.2) == pytest.approx(0.07)
    assert changed("linear", 0.0, 0.8) == pytest.approx(0.5)
    assert [changed("int", n, f) for n, f in [(2, 1.2), (2, 0.8), (0, 1.2), (9, 1.2)]] == [
        *(3, 1, 1, 9)
    ]
    assert changed("logit", 0.99, 1.2) == pytest.approx(1.2 * 99 / (1 + 1.2 * 99))


def test_what_is_inherited_unchanged_is_the_same_to_the_bit() -> None:
    domains, value = {"logit": DOMAINS["logit"]}, 0.9123456789
    evolution = pbt.Evolution(object, {}, pbt.hold, pbt.give, pbt.explored)
    held = evolution.held(domains, {"logit": value})
    assert evolution.inherited(domains, {"logit": value}, held, held) == (held, {"logit": value})


def test_pb2_leaves_what_it_does_not_model() -> None:
    for name in ("int", "choice"):
        assert pb2.explored(DOMAINS[name], 2, 3) == 2


MIXED = SearchSpace(
    {
        "optimizer": Choice(("adam", "sgd")),
        "momentum": Float(0.5, 0.999, "logit", when={"optimizer": ("sgd",)}, off=0.0),
        "l2": Float(1e-6, 1, "log", size=2, start=(1e-3, 1e-4)),
        "many": Float(0, 1, size=100, start=0.5),
        "layers": Int(1, 4),
    }
)


@pytest.mark.parametrize("sampler", [pbt, pb2])
def test_a_knob_counts_for_an_heir_as_soon_as_its_condition_is_met(sampler: Any) -> None:
    """What a condition switches off is held, inherited and changed, and rests in the schedule."""
    evolution = Evolution(object, {}, sampler.hold, sampler.give, sampler.explored)
    problem: Any = SimpleNamespace(space=MIXED, schedule=MIXED.schedule)
    members = Population(problem, evolution)
    plan = Plan(0, 0, MIXED.schedule({"optimizer": "adam", "l2[1]": 0.5}), 0)
    donor = members.config(plan)
    assert point(donor) == plan.schedule.at(0.0)
    assert point(members.inherited(donor, donor["knobs"])) == point(donor)
    if sampler is pbt:
        heir = members.inherited(donor, {**donor["knobs"], "optimizer": 1, "layers": 3.9})
        there = point(heir)
        assert there["optimizer"] == "sgd" and there["layers"] == 4
        assert MIXED["momentum"].contains(there["momentum"])
        assert members.config(replace(plan, schedule=MIXED.schedule({}))).keys() == donor.keys()


# -- lineage --------------------------------------------------------------------------------------


SPACE = SearchSpace({"x": Float(0, 1), "l2": Float(0, 1, size=2), "kind": Choice(("a", "b"))})


def test_an_heir_follows_the_donor_up_to_its_step_and_its_own_knobs_from_there() -> None:
    begun = SPACE.schedule({"x": 0.1, "l2[0]": 0.2, "l2[1]": 0.3})
    first = Lineage(1, 30, 0.3, begun).taken_over(2, {"x": 0.5, "l2": (0.2, 0.3), "kind": "b"})
    later = Lineage(2, 60, 0.6, first.schedule, first.taken).taken_over(
        1, {"x": 0.5, "l2": (0.2, 0.9), "kind": "b"}
    )
    at = [later.schedule.at(p) for p in (0.0, 0.29, 0.3, 0.59, 0.6, 1.0)]
    assert [point["x"] for point in at] == [0.1, 0.1, 0.5, 0.5, 0.5, 0.5]
    assert [point["l2"] for point in at] == [(0.2, 0.3)] * 4 + [(0.2, 0.9)] * 2
    assert [point["kind"] for point in at] == ["a", "a", "b", "b", "b", "b"]
    assert later.taken == ((1, 30), (2, 60)) and later.trial == 1
    assert Lineage.from_json(json.loads(json.dumps(later.to_json()))) == later


def test_what_was_inherited_is_what_its_schedule_makes_of_the_seed(tmp_path: Path) -> None:
    """Real training, two seeds side by side: taken over twice, then followed from the start."""
    problem = load(spec_from_keywords(objective="digits", seeds=2, seed=5, **TASK))
    assert problem.training is not None
    donor = problem.schedule(problem.space.start_coordinates())
    one, two = {"weight_decay": 0.05, "learning_rate": 2e-4}, {"input_noise": 0.6}
    found = Lineage(0, 0, 0.0, donor)
    for trial, (step, values) in enumerate([(24, one), (48, {**one, **two})], start=1):
        stop = next(s for s in problem.training.evaluation_steps() if s >= step)
        _until(problem, found.schedule, tmp_path / str(trial - 1), stop)
        here = Lineage(trial - 1, stop, stop / problem.training.steps, found.schedule, found.taken)
        point = problem.schedule({**problem.space.start_coordinates(), **values}).at(0.0)
        found = here.taken_over(trial, point)
        lineage.keep(tmp_path / str(trial - 1), tmp_path / str(trial), found)
        assert lineage.read(tmp_path / str(trial)) == found
    heir = list(follow(problem, found.schedule, 5, str(tmp_path / "2"), True))
    anew = list(follow(problem, found.schedule, 5))
    assert [(m.step, m.metrics) for m in heir] == [(m.step, m.metrics) for m in anew]
    constant = list(follow(problem, donor, 5))
    assert constant[-1].metrics != anew[-1].metrics


def _until(problem: Any, schedule: Schedule, folder: Path, stop: int) -> None:
    run = follow(problem, schedule, 5, str(folder), True)
    assert next(m for m in run if m.step == stop)
    run.close()


def test_checkpoints_are_replaced_so_that_a_kill_leaves_nothing_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor, own = tmp_path / "donor", tmp_path / "own"
    for folder, text in ((donor, "new"), (own, "old")):
        folder.mkdir()
        (folder / "seed-0.pt").write_text(text)
    found = Lineage(0, 30, 0.3, SPACE.schedule({}))
    monkeypatch.setattr("pathlib.Path.hardlink_to", _killed)
    monkeypatch.setattr("shutil.copyfile", _killed)
    with pytest.raises(KeyboardInterrupt):
        lineage.keep(donor, own, found)
    assert not list(own.glob("seed-*.pt")) and lineage.read(own) == found


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_damaged_lineage_is_a_bad_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text('{"trial": 1}')
    with pytest.raises(HpoError, match="is damaged") as caught:
        lineage.read(tmp_path)
    assert caught.value.code == "bad-checkpoint"
    (tmp_path / "seed-0.pt").write_text("")
    plan = Plan(0, 0, SPACE.schedule({}), 0, str(tmp_path))
    assert lineage.present(plan) == plan and not tmp_path.exists()  # it begins again


# -- the study ------------------------------------------------------------------------------------


def measured(step: int, value: float) -> Measurement:
    return Measurement(step, step / 10, {"val_loss": value, "train_loss": value}, {"x": 0.1})


@pytest.mark.parametrize("donor_step", [4, 8])
@pytest.mark.usefixtures("quick")
def test_a_trial_that_takes_another_over_has_its_past(mlruns: Path, donor_step: int) -> None:
    study = opened(mlruns, sampler="random", space={"x": {"low": 0, "high": 1}})
    heir = study.ask()
    assert heir is not None
    for step in (2, 4, 6):  # the best value of the abandoned past is not the heir's
        study.observe(heir.number, measured(step, 0.01 * step))
    past = [measured(step, 0.5 - 0.01 * step) for step in range(2, donor_step + 1, 2)]
    found = Lineage(7, donor_step, donor_step / 10, heir.schedule).taken_over(0, {"x": 0.9})
    plan = study.take_over(heir.number, found, past)
    assert plan.taken == ((7, donor_step),) and plan.number == heir.number
    assert plan.schedule.at(1.0) == {"x": 0.9}
    study.observe(heir.number, measured(10, 0.2))
    study.tell(heir.number, _complete())
    study.close()
    (record,) = [r for r in open_study("s", mlruns).records if r.state == "complete"]
    assert (record.value, record.step) == (0.2, 10)
    assert [list(pair) for pair in record.lineage] == [[7, donor_step]]
    assert record.schedule is not None and Schedule.from_json(record.schedule) == plan.schedule
    told = events(open_study("s", mlruns))
    kinds = [(e["event"], e.get("step")) for e in told if e["event"] in {"measurement", "exploit"}]
    before = [("measurement", step) for step in (2, 4, 6)]
    gap = [("measurement", 8)] if donor_step == 8 else []
    assert kinds == [*before, ("exploit", donor_step), *gap, ("measurement", 10)]
    (end,) = [event for event in told if event["event"] == "end"]
    assert end["tags"]["hpo.lineage"] == f"trial 7 at step {donor_step}"


def _complete() -> Any:
    from hpo.trial import Outcome

    return Outcome("complete")


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message", "path"),
    [
        ({"engine": "optuna"}, "which engine optuna cannot have", ("sampler",)),
        ({"sampler": "pb2", "engine": "optuna"}, "sampler pb2 changes the knobs", ("sampler",)),
        ({"trials": 1}, "at least 2 members, trials is 1", ("sampler",)),
        ({"prune": "median"}, "prune would end them", ("prune",)),
        ({"sampler_options": {"propose": "stn"}}, "propose is stn", ("sampler_options", "propose")),
        ({"sampler_options": {"propose": "pb2"}}, "propose is pb2", ("sampler_options", "propose")),
        ({"sampler_options": {"interval": 0}}, "above 0", ("sampler_options", "interval")),
        (
            {"space": {"dropout": {"schedule": {"kind": "linear", "knots": 2}}}},
            "has a schedule to be searched between runs",
            ("space", "dropout"),
        ),
        ({"objective": "elastic_net", "space": None}, "is a bilevel problem", ("sampler",)),
        (
            {"sampler": "tpe", "sampler_options": None, "engine": "optuna", "prune": "asha"},
            "prune asha is a scheduler of Ray Tune, which engine optuna cannot have",
            ("prune",),
        ),
        (
            {"sampler": "tpe", "sampler_options": None, "prune": {"patient": {"then": "asha"}}},
            "then is asha, which decides by itself",
            ("prune", "patient", "then"),
        ),
    ],
)
def test_refusals_say_what_to_do(
    mlruns: Path, changes: dict[str, Any], message: str, path: tuple[str, ...]
) -> None:
    keywords = {**DIGITS, **changes}
    if keywords["objective"] != "digits":
        keywords = {k: v for k, v in keywords.items() if k not in {"steps", "training"}}
    with pytest.raises(HpoError, match=message) as caught:
        prepare(spec_from_keywords(**keywords), Launch(mlruns))
    assert caught.value.path == path and caught.value.hint


def test_a_function_has_no_checkpoints_to_go_on_from(mlruns: Path) -> None:
    for changes in ({"sampler": "pbt"}, {"prune": "ray_hyperband"}):
        with pytest.raises(HpoError, match="checkpoints") as caught:
            run(mlruns, engine="ray", **changes)
        assert "give a task" in caught.value.hint


def test_pb2_needs_a_number_to_model(mlruns: Path) -> None:
    with pytest.raises(HpoError, match="none of x has any") as caught:
        run(mlruns, engine="ray", sampler="pb2", space={"x": {"low": 1, "high": 5, "scale": "int"}})
    assert "use sampler pbt" in caught.value.hint


# -- on a cluster ---------------------------------------------------------------------------------


def check_replays(result: Result) -> None:
    """Every member is what its schedule makes of the study's seed, here and without Ray."""
    problem = load(result.spec)
    for record in result.records:
        schedule = result.schedule_of(record)
        for place in schedule.knots():
            for name, value in schedule.at(place).items():
                assert problem.space[name].contains(value)
        best = min(follow(problem, schedule, result.spec.seed), key=lambda m: _score(m.metrics))
        assert (best.metrics["val_loss"], best.step) == (record.value, record.step)


def _score(metrics: dict[str, float]) -> float:
    return metrics["holdout_loss"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here", "quick")
@pytest.mark.parametrize(("steps", "evaluations"), [(100, 25), (100, 7)])
def test_members_are_compared_to_the_end_wherever_they_are_measured(
    mlruns: Path, steps: int, evaluations: int
) -> None:
    changed = {"training": {"evaluations": evaluations}, "sampler_options": {"interval": 0.1}}
    described = spec_from_keywords(name="s", **{**DIGITS, **changed, "steps": steps})
    found = launch(described, Launch(mlruns))
    assert outcomes(found) == ["complete"] * 4
    compared = {event["step"] for event in events(found, "exploit")}
    assert max(compared) >= 0.7 * steps


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here", "quick")
@pytest.mark.parametrize(("sampler", "together"), [("pbt", True), ("pb2", False)])
def test_a_population_finds_schedules_that_replay(
    mlruns: Path, sampler: str, together: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"interval": 0.25, "together": together}
    keywords = {**DIGITS, "sampler": sampler, "sampler_options": options}
    result = launch(spec_from_keywords(name="s", **keywords), Launch(mlruns))
    assert outcomes(result) == ["complete"] * 4
    exploits = Counter(event["trial"] for event in events(result, "exploit"))
    assert exploits
    heirs = [record for record in result.records if record.lineage]
    assert {record.number for record in heirs} == set(exploits)
    check_replays(result)
    for number in range(4):
        ends = [e for e in events(result, "end") if e["trial"] == number]
        steps = [e["step"] for e in events(result, "measurement") if e["trial"] == number]
        assert len(ends) == 1 and steps[-1] == 80
    assert not list(result.folder.path.glob("trials/*/*")) and not (mlruns / "s/ray").exists()
    assert Schedule.from_json(json.loads(result.folder.schedule.read_text())) == result.schedule
    cli(["schedule", "s", "--mlruns", str(mlruns)], standalone_mode=False)
    trial = ["show", "s", "--trial", str(heirs[0].number), "--mlruns", str(mlruns)]
    cli(trial, standalone_mode=False)
    assert "went on from trial" in capsys.readouterr().out
    if together:  # then the seed decides everything, however many train at once
        described = spec_from_keywords(name="t", **{**keywords, "workers": 3})
        again = launch(described, Launch(mlruns))
        assert table(again) == table(result)
        assert [r.lineage for r in again.records] == [r.lineage for r in result.records]


def test_a_member_took_the_seconds_of_its_whole_way() -> None:
    outcome = json.dumps(Outcome("complete", seconds=0.5).to_json())
    assert told({"outcome": outcome, "time_total_s": 4.0}).seconds == 4.0


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here", "quick")
def test_a_member_whose_worker_is_killed_comes_back(mlruns: Path, marks: Path) -> None:
    task = Path(__file__).with_name("toy_tasks.py")
    keywords = {**DIGITS, "objective": f"{task}:Dying", "objective_options": {"folder": str(marks)}}
    result = launch(spec_from_keywords(name="s", **keywords), Launch(mlruns))
    assert outcomes(result) == ["complete"] * 4 and (marks / "died").exists()
    assert [attempt["reason"] for r in result.records for attempt in r.attempts] == ["lost"]
    steps = {event["step"] for event in events(result, "exploit")}
    assert steps == {20, 40, 60}  # all of them were waited for, and compared at the same steps
    check_replays(result)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here", "quick")
def test_a_population_whose_driver_is_killed_goes_on(tmp_path: Path, mlruns: Path) -> None:
    command = [sys.executable, __file__, str(mlruns)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    spool = mlruns / "studies" / "s" / "events.jsonl"
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: spool.exists() and '"exploit"' in spool.read_text(), 120)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    left = open_study("s", mlruns)
    assert "running" in {record.state for record in left.records}
    result = resume(mlruns)
    assert outcomes(result) == ["complete"] * 4
    check_replays(result)
    for attempt in {(e["trial"], e["attempt"]) for e in events(result, "end")}:
        assert attempt[1] == 0  # none began again


if __name__ == "__main__":
    from rays import ray_running

    with ray_running(num_cpus=4):
        launch(spec_from_keywords(name="s", **DIGITS), Launch(Path(sys.argv[1])))
