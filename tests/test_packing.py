"""Trials that are carried out together: the same table, each its own outcome, and refusals."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from shell import hpo
from studies import children, events, opened, outcomes, resume, rounded, spec, until

from hpo import packable
from hpo.errors import HpoError, NothingSucceeded
from hpo.launch import launch
from hpo.packing import drain_together
from hpo.preparation import Launch
from hpo.problem import Problem, load
from hpo.result import Result, open_study
from hpo.trial import Outcome, Plan, drain
from objectives.training.measurement import Measurement

pytestmark = pytest.mark.usefixtures("quick", "no_process_left")

TASKS = Path(__file__).with_name("toy_packed.py")
SPACE = ["weight_decay", "dropout"]


def described(task: str = "Small", **keywords: Any) -> Any:
    defaults: dict[str, Any] = {"space": SPACE, "sampler": "random", "trials": 8}
    return spec(f"{TASKS}:{task}", **{**defaults, **keywords})


def run(mlruns: Path, task: str = "Small", **keywords: Any) -> Result:
    return launch(described(task, **keywords), Launch(mlruns, warn=pytest.fail))


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What packing brings is measured where a test is about that."""
    monkeypatch.setattr(packable, "_gain", lambda problem, members: 2.0)


# -- the trials of a block ----------------------------------------------------------------------


def problem_of(task: str, **keywords: Any) -> Problem:
    return load(described(task, pack=4, **keywords))


def plans(problem: Problem, folder: Path | None = None, count: int = 3) -> list[Plan]:
    found = []
    for number in range(count):
        schedule = problem.schedule({"weight_decay": 10.0 ** (number - 3), "dropout": 0.1})
        checkpoint = None if folder is None else str(folder / str(number))
        found.append(Plan(number, 0, schedule, 0, checkpoint))
    return found


def carried_out(
    problem: Problem, wanted: Sequence[Plan], ends: Mapping[int, int] | None = None
) -> tuple[dict[int, Outcome], dict[int, list[Measurement]]]:
    """The outcomes, and what was observed; `ends`: the steps at which trials are pruned."""
    seen: dict[int, list[Measurement]] = {plan.number: [] for plan in wanted}

    def observe(number: int, measurement: Measurement) -> bool:
        seen[number].append(measurement)
        return (ends or {}).get(number) != measurement.step

    return dict(drain_together(problem, wanted, observe)), seen


def test_each_trial_of_a_block_has_its_outcome() -> None:
    problem = problem_of("Small", space=["learning_rate"])
    wanted = [
        Plan(number, 0, problem.schedule({"learning_rate": rate}), 0)
        for number, rate in ((4, 1e-3), (5, 1.0), (6, 1e-2))
    ]
    told, seen = carried_out(problem, wanted, {6: 6})
    assert {n: o.state for n, o in told.items()} == {4: "complete", 5: "complete", 6: "pruned"}
    assert [m.step for m in seen[6]] == [3, 6] and [m.step for m in seen[4]] == [3, 6, 9, 12]
    assert told[4].seconds == seen[4][-1].cost["seconds"] > told[6].seconds > 0
    by_itself: list[Measurement] = []
    drain(problem, wanted[0], lambda m: by_itself.append(m) is None)
    assert by_itself[-1].metrics == pytest.approx(seen[4][-1].metrics, rel=1e-4)


def test_one_that_is_not_finite_any_more_fails_by_itself() -> None:
    problem = problem_of("Small", fixed={"weight_decay": 0.1}, space=["learning_rate"])
    wanted = [
        Plan(0, 0, problem.schedule({"learning_rate": 0.01}), 0),
        Plan(1, 0, problem.schedule({}).pin(*pinned("learning_rate", 1e30)), 0),
    ]
    told, seen = carried_out(problem, wanted)
    assert (told[0].state, told[1].state, told[1].reason) == ("complete", "failed", "nan")
    assert told[1].message == f"val_loss is nan at step {seen[1][-1].step}"


def pinned(knob: str, value: float) -> tuple[dict[str, Any], dict[str, Any]]:
    from search_spaces.domains import Float

    return {knob: Float(0.0, 1e38)}, {knob: value}


def test_an_exception_in_the_ensemble_lets_each_trial_run_by_itself() -> None:
    problem = problem_of("Raises", objective_options={"steps": 5})
    told, seen = carried_out(problem, plans(problem))
    assert [o.state for o in told.values()] == ["complete"] * 3
    assert [m.step for m in seen[0]] == [3, 3, 6, 9, 12]
    problem = problem_of("Raises", objective_options={"steps": 5, "alone": True})
    told, _ = carried_out(problem, plans(problem))
    assert [o.reason for o in told.values()] == ["error"] * 3
    assert all("ValueError: at step 6  (toy_packed.py:" in o.message for o in told.values())


def test_out_of_memory_are_all_that_were_together() -> None:
    problem = problem_of("Raises", objective_options={"steps": 5, "memory": True})
    told, _ = carried_out(problem, plans(problem), {1: 3})
    assert {n: o.reason or o.state for n, o in told.items()} == {0: "oom", 1: "pruned", 2: "oom"}


def test_what_the_listener_raises_passes_through() -> None:
    problem = problem_of("Small")

    def observe(number: int, measurement: Measurement) -> bool:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        list(drain_together(problem, plans(problem), observe))


def test_a_trial_with_a_checkpoint_goes_on_by_itself_and_the_others_have_none(
    tmp_path: Path,
) -> None:
    problem = problem_of("Small")
    wanted = plans(problem, tmp_path)
    drain(problem, wanted[1], lambda measurement: measurement.step < 6)
    told, seen = carried_out(problem, wanted)
    assert [o.state for o in told.values()] == ["complete"] * 3 and list(told) == [0, 2, 1]
    assert [m.step for m in seen[1]] == [3, 6, 9, 12]
    assert [str(p.parent.name) for p in tmp_path.glob("*/*.pt")] == ["1"]


def test_a_block_is_asked_for_whole_and_what_is_left_of_one_is_taken_up_before_the_next(
    mlruns: Path,
) -> None:
    keywords = {"trials": 11, "sampler": "random"}
    study = opened(mlruns, **keywords)
    assert [p.number for p in study.ask_together(4)] == [0, 1, 2, 3]
    for number in (0, 2):
        study.tell(number, Outcome("pruned"))
    study.close()
    study = opened(mlruns, **keywords)
    asked = [[p.number for p in study.ask_together(4)] for _ in range(4)]
    assert asked == [[1, 3], [4, 5, 6, 7], [8, 9, 10], []]
    study.close()


# -- studies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_that_learn_take_blocks_as_they_take_workers(mlruns: Path, sampler: str) -> None:
    result = run(mlruns, sampler=sampler, trials=20, pack=8)
    assert outcomes(result) == ["complete"] * 20
    assert len({tuple(r.coordinates.values()) for r in result.records}) == 20


def test_a_study_may_be_continued_with_another_number(mlruns: Path) -> None:
    expected = rounded(run(mlruns, name="whole", trials=8))
    run(mlruns, trials=3, pack=2)
    assert rounded(resume(mlruns, trials=5, pack=8)) == expected[:5]
    assert rounded(resume(mlruns, trials=8, pack=1)) == expected


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_trials_and_all_are_carried_out_again(
    mlruns: Path,
) -> None:
    expected = rounded(run(mlruns, name="whole", task="Long", trials=4))
    wanted = described("Long", trials=4, workers=1, pack=4)
    killed: list[int] = []

    def kills(event: Mapping[str, Any]) -> None:
        if event["event"] == "measurement" and event["step"] == 40 and not killed:
            killed.extend(children())
            os.kill(killed[0], signal.SIGKILL)

    result = launch(wanted, Launch(mlruns, sinks=(kills,), warn=pytest.fail))
    assert rounded(result) == expected
    retries = events(result, "retry")
    assert sorted(e["trial"] for e in retries) == [0, 1, 2, 3]
    assert {e["reason"] for e in retries} == {"lost"}
    # Nothing is kept of an ensemble: each begins a new attempt, and it is whole.
    assert {(e["attempt"]) for e in events(result, "end") if e["outcome"] == "complete"} == {1}


@pytest.mark.slow
def test_a_study_whose_driver_is_killed_continues_to_the_same_table(mlruns: Path) -> None:
    keywords: dict[str, Any] = {"trials": 10, "pack": 4, "workers": 1, "sampler": "tpe"}
    expected = rounded(run(mlruns, "Long", name="whole", **keywords))
    command = [sys.executable, "-c", "from hpo.cli import main; main()", "run", "-q", "--no-mlflow"]
    command += [
        "--name",
        "s",
        "--objective",
        f"{TASKS}:Long",
        "--set",
        "space=[weight_decay, dropout]",
    ]
    command += [part for k, v in keywords.items() for part in (f"--{k}", str(v))]
    spool = mlruns / "studies" / "s" / "events.jsonl"
    with subprocess.Popen([*command, "--mlruns", str(mlruns)]) as driver:
        until(
            lambda: spool.exists() and '"trial":6,"attempt":0,"step":40' in spool.read_text(), 120
        )
        driver.kill()
    until(lambda: not children(driver.pid))
    stopped = open_study("s", mlruns)
    assert 4 <= len(stopped.records) < 10
    result = resume(mlruns)
    assert rounded(result) == expected
    last = {e["trial"]: e["attempt"] for e in events(result, "end")}
    told = Counter((e["trial"], e["attempt"], e["step"]) for e in events(result, "measurement"))
    assert set(told.values()) == {1}
    assert all(sum(key[:2] == item for key in told) == 24 for item in last.items())


# -- where it cannot be, or does not pay --------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "keywords", "reason"),
    [
        ("Small", {"sampler": "stn"}, "sampler stn bends the knobs of each run by itself"),
        ("Small", {"seeds": 2}, "seeds is 2, and trials that are packed have one seed"),
        ("Optional", {"space": ["kind", "l2"]}, "knob kind is a choice, and trials"),
        ("Recurrent", {"space": ["l2"]}, "side by side with others: .*aten::lstm"),
        ("Looks", {}, r"side by side with others: .*\.item\(\).*\(toy_packed.py:"),
        ("Remembers", {}, "does not come out the same side by side with others as alone"),
    ],
)
def test_what_cannot_be_packed_is_refused_with_the_reason(
    mlruns: Path, task: str, keywords: dict[str, Any], reason: str
) -> None:
    with pytest.raises(HpoError, match=f"pack is 4, but .*{reason}") as refused:
        run(mlruns, task, pack=4, **keywords)
    assert refused.value.path == ("pack",) and refused.value.code == "refused"
    assert not (mlruns / "studies").exists()


def test_functions_and_bilevel_problems_are_refused(mlruns: Path) -> None:
    with pytest.raises(HpoError, match="is a function, and only trainings of a task"):
        launch(spec("curve", pack=2), Launch(mlruns))
    with pytest.raises(HpoError, match="objective logistic is a bilevel problem, and only"):
        launch(spec("x:y", pack=2).model_copy(update={"objective": "logistic"}), Launch(mlruns))


def test_the_command_line_names_the_option(mlruns: Path) -> None:
    command = ("run", "--mlruns", mlruns, "--set", "space=[l2]", "--objective")
    ended = hpo(*command, f"{TASKS}:Recurrent", "--pack", "8")
    assert ended.code == 2 and "--pack 8" in ended.err and "aten::lstm" in ended.err
    ended = hpo(*command, f"{TASKS}:Small", "--pack", "1000")
    assert ended.code == 2 and "at most 256" in ended.err


def test_what_every_trial_will_tell_is_no_reason(mlruns: Path) -> None:
    wanted = described("Raises", objective_options={"steps": 0, "alone": True}, pack=4)
    assert packable.why_not(load(wanted)) is None
    assert packable.checked(load(wanted)).notes == ()


def test_a_note_says_where_packing_hardly_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    problem = load(described("Small", pack=32))
    assert 0.1 < packable._quietly(packable._gain, problem, 8) < 20  # what it is, the machine says
    for gain, notes in {1.3: 0, 1.1: 1}.items():
        monkeypatch.setattr("hpo.packable._gain", lambda *_, gain=gain: gain)
        found = packable.checked(problem).notes
        assert len(found) == notes
    assert found == ("pack hardly pays: 8 trials together were 1.1 times as fast as alone",)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_worker_out_of_memory_leaves_when_its_other_trials_have_ended(mlruns: Path) -> None:
    task = described("Cramped", engine="ray", workers=1, pack=3, trials=3, retries=1)
    with pytest.raises(NothingSucceeded):
        launch(task, Launch(mlruns, warn=pytest.fail))
    for record in open_study("s", mlruns).records:
        assert record.reason == "oom"
        assert [attempt["reason"] for attempt in record.attempts] == ["oom"]
