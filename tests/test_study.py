"""The study: what is asked for, when it stops, what is kept, and what a failed trial costs."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from studies import X, events, opened, outcomes, resume, run, spec, table

from hpo import ledger
from hpo.errors import Conflict, HpoError, NothingSucceeded
from hpo.ledger import TrialRecord
from hpo.preparation import Launch, prepare
from hpo.result import Result
from hpo.trial import Outcome
from objectives.training.measurement import Measurement
from search_spaces.space import SearchSpace

pytestmark = pytest.mark.usefixtures("quick")


def at(step: int, value: float, **metrics: float) -> Measurement:
    return Measurement(step, step / 10, {"val_loss": value, **metrics}, {"x": 0.5}, {})


# -- budgets ------------------------------------------------------------------------------------


def test_the_first_trial_runs_the_start_values(mlruns: Path) -> None:
    result = run(mlruns, trials=2, space={"x": {"low": 0, "high": 1, "start": 0.25}})
    assert result.start is not None
    assert result.start.coordinates == {"x": 0.25}


def test_a_study_asks_for_as_many_trials_as_its_budget(mlruns: Path) -> None:
    assert outcomes(run(mlruns, trials=5)) == ["complete"] * 5


def test_resuming_a_finished_study_runs_nothing_more(mlruns: Path) -> None:
    first = run(mlruns, trials=3)
    assert table(resume(mlruns)) == table(first)


def test_a_resumed_study_takes_a_larger_budget(mlruns: Path) -> None:
    run(mlruns, trials=2)
    assert len(resume(mlruns, trials=5).records) == 5
    assert resume(mlruns).spec.budget.trials == 5


def test_no_trial_starts_after_the_time_is_over_but_running_ones_end(
    mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("hpo.study.time.monotonic", lambda: now)
    study = opened(mlruns, time=60, trials=10)
    first, second = study.ask(), study.ask()
    assert first is not None and second is not None
    now = 61.0
    assert study.ask() is None
    assert not study.done()
    for plan in (first, second):
        assert study.observe(plan.number, at(1, 1.0))
        study.tell(plan.number, Outcome("complete"))
    assert study.done()
    study.close()


def test_a_study_without_a_better_trial_for_long_enough_stops(mlruns: Path) -> None:
    result = run(mlruns, "flat", trials=50, plateau=4, space=X)
    assert len(result.records) == 5


def test_a_plateau_is_counted_over_a_resume(mlruns: Path) -> None:
    run(mlruns, "flat", trials=3, plateau=4, space=X)
    assert len(resume(mlruns, trials=50).records) == 5


def test_an_exhausted_grid_ends_the_study(mlruns: Path) -> None:
    space = {"x": {"low": 0.0, "high": 1.0, "start": 0.5}}
    options = {"sampler": "grid", "sampler_options": {"points": 3}}
    result = run(mlruns, "value", trials=50, space=space, **options)
    assert sorted(r.coordinates["x"] for r in result.records) == [0.0, 0.5, 1.0]


def test_three_equal_failures_at_the_start_end_the_study(mlruns: Path) -> None:
    with pytest.raises(NothingSucceeded) as caught:
        run(mlruns, "raises", trials=20, space=X)
    text = str(caught.value)
    assert text.startswith(
        "3 of 3 trials failed, all with: ValueError: expected 3 channels, got 1"
        "  (toy_objectives.py:"
    )
    assert "hpo show s --trial 0" in text


def test_resuming_a_hopeless_study_tries_again(mlruns: Path) -> None:
    with pytest.raises(NothingSucceeded):
        run(mlruns, "raises", trials=20, space=X)
    with pytest.raises(NothingSucceeded, match="6 of 6 trials failed"):
        resume(mlruns)


def test_failures_that_differ_do_not_end_the_study(mlruns: Path) -> None:
    with pytest.raises(NothingSucceeded, match="6 of 6 trials failed"):
        run(mlruns, "raises_differently", trials=6, space=X)


def test_failures_after_a_success_do_not_end_the_study(mlruns: Path) -> None:
    result = run(
        mlruns,
        "raises_above",
        trials=12,
        sampler="random",
        objective_options={"limit": 0.25},
        space={"x": {"low": 0.0, "high": 1.0, "start": 0.1}},
    )
    assert len(result.records) == 12
    assert outcomes(result).count("failed") >= 3


# -- what the ledger keeps of a trial's end -------------------------------------------------------


class Ended:
    """As much of Optuna's trial as the end of it needs."""

    def __init__(self, outcome: object) -> None:
        self.user_attrs = {ledger.OUTCOME: outcome}
        self.number, self.state, self.value = 3, optuna.trial.TrialState.COMPLETE, 0.5
        self.params: dict[str, float] = {}


def test_the_end_of_a_trial_is_kept_as_text_and_read_back(mlruns: Path) -> None:
    study = opened(mlruns)
    plan = study.ask()
    assert plan is not None
    study.observe(plan.number, at(1, 0.5, val_error=0.25))
    study.tell(plan.number, Outcome("complete", seconds=1.25, worker="here"))
    kept = study.optuna.trials[0].user_attrs[ledger.OUTCOME]
    study.close()
    assert isinstance(kept, str)
    told = study.records()[0]
    assert (told.step, told.seconds, told.worker) == (1, 1.25, "here")
    assert told.metrics["final/val_error"] == 0.25


def test_the_end_of_a_trial_as_earlier_versions_kept_it_is_read() -> None:
    frozen: Any = Ended({"step": 4, "metrics": {"best/val_loss": 0.5}})
    told = ledger.record(frozen, SearchSpace())
    assert (told.step, told.metrics) == (4, {"best/val_loss": 0.5})


@pytest.mark.parametrize("damaged", ['{"step":', "[1]", 7])
def test_a_damaged_end_of_a_trial_is_named(damaged: object) -> None:
    frozen: Any = Ended(damaged)
    with pytest.raises(HpoError, match="trial 3: what the ledger says of its end is damaged"):
        ledger.record(frozen, SearchSpace())


# -- stopping -----------------------------------------------------------------------------------


def test_a_request_to_finish_lets_running_trials_end_and_asks_for_no_more(mlruns: Path) -> None:
    study = opened(mlruns, trials=10)
    plan = study.ask()
    assert plan is not None
    study.folder.stop_request.write_text("finish")
    study.tick()
    assert study.ask() is None and not study.done()
    study.observe(plan.number, at(1, 1.0))
    study.tell(plan.number, Outcome("complete"))
    assert study.done()
    study.close()
    assert outcomes(resume(mlruns, trials=2)) == ["complete", "complete"]


def test_a_request_to_stop_now_overrules_one_to_finish(mlruns: Path) -> None:
    study = opened(mlruns)
    study.folder.stop_request.write_text("finish")
    study.tick()
    study.folder.stop_request.write_text("now")
    study.tick()
    assert study.stopping == "now"
    study.close()


def test_a_request_meant_for_a_dead_driver_does_not_stop_the_next_one(mlruns: Path) -> None:
    study = opened(mlruns)
    study.close()
    study.folder.stop_request.write_text("now")
    assert len(resume(mlruns).records) == 4


# -- what is kept -------------------------------------------------------------------------------


def test_maximize_ranks_the_largest_first_and_takes_the_best_step(mlruns: Path) -> None:
    result = run(mlruns, trials=6, maximize="accuracy", sampler="random")
    values = [r.value for r in result.records]
    assert result.best is not None
    assert result.best.value == max(v for v in values if v is not None)
    assert all(r.step == 5 for r in result.records)


def test_trials_and_steps_are_ranked_by_the_hold_out_where_there_is_one(mlruns: Path) -> None:
    result = run(mlruns, "held_out", trials=8, space=X, sampler="random")
    assert result.best is not None
    largest = max(result.records, key=lambda r: r.coordinates["x"])
    assert result.best.number == largest.number
    assert result.best.value == largest.coordinates["x"]
    assert result.best.holdout == 1 - largest.coordinates["x"]
    assert json.loads(result.folder.schedule.read_text()) == result.best.schedule.to_json()


def test_the_value_of_a_trial_is_that_of_its_best_step(mlruns: Path) -> None:
    study = opened(mlruns, trials=1)
    plan = study.ask()
    assert plan is not None
    for step, value in ((1, 3.0), (2, 1.0), (3, 2.0)):
        study.observe(plan.number, at(step, value, train_loss=step))
    study.tell(plan.number, Outcome("complete"))
    (record,) = study.records()
    study.close()
    assert (record.value, record.step) == (1.0, 2)
    assert record.metrics["best/train_loss"] == 2 and record.metrics["final/train_loss"] == 3


def test_several_seeds_are_averaged_step_by_step(mlruns: Path) -> None:
    single = run(mlruns, name="one", trials=3)
    averaged = run(mlruns, name="three", trials=3, seeds=3)
    for one, three in zip(single.records, averaged.records, strict=True):
        assert one.value is not None
        assert three.value == pytest.approx(one.value + 0.001, abs=1e-12)  # of seeds 0, 1, 2


def test_knobs_held_fixed_are_in_every_schedule(mlruns: Path) -> None:
    result = run(mlruns, trials=3, space=X, fixed={"y": 0.25, "mode": "soft"})
    for record in result.records:
        point = result.schedule_of(record).at(0.5)
        assert point["y"] == 0.25 and point["mode"] == "soft"
    assert {"y", "mode"} < set(events(result, "start")[0]["params"])


def test_a_conditional_knob_is_proposed_only_where_it_counts(mlruns: Path) -> None:
    result = run(mlruns, "conditional", trials=12, sampler="random")
    kinds = {r.coordinates["optimizer"] for r in result.records}
    assert kinds == {"adam", "sgd"}
    for record in result.records:
        assert ("momentum" in record.coordinates) == (record.coordinates["optimizer"] == "sgd")
        if "momentum" not in record.coordinates:
            assert result.schedule_of(record).at(0)["momentum"] == 0.5


def test_the_shape_of_a_schedule_can_be_searched(mlruns: Path) -> None:
    knob = {"low": 0.0, "high": 1.0, "schedule": {"kind": "linear", "knots": 3}}
    result = run(mlruns, trials=5, space={"x": knob}, sampler="random")
    assert set(result.records[0].coordinates) == {"x@0", "x@0.5", "x@1"}
    last = result.records[-1]
    schedule = result.schedule_of(last)
    middle = (last.coordinates["x@0"] + last.coordinates["x@0.5"]) / 2
    assert schedule.at(0.25)["x"] == pytest.approx(middle)
    assert len({e["point"]["x"] for e in events(result, "measurement") if e["trial"] == 4}) == 5


def test_a_study_starts_from_the_best_of_another(mlruns: Path) -> None:
    from hpo.launch import launch
    from hpo.schedulefile import start_point

    best = run(mlruns, name="a", trials=8).best
    assert best is not None
    start = start_point("a", mlruns)
    result = launch(spec(name="b", trials=1), Launch(mlruns, start=start))
    assert dict(result.records[0].coordinates) == dict(best.schedule.at(0))
    assert table(resume(mlruns, "b", trials=2))[0] == table(result)[0]


def test_a_start_point_that_shares_no_knob_or_lies_outside_is_refused(mlruns: Path) -> None:
    with pytest.raises(HpoError, match="none of which is searched"):
        prepare(spec(space=X), Launch(mlruns, start={"z": 1.0}))
    with pytest.raises(HpoError, match="outside"):
        prepare(spec(space=X), Launch(mlruns, start={"x": 7.0}))


def test_the_stored_spec_is_resolved_so_that_later_defaults_do_not_matter(mlruns: Path) -> None:
    result = run(mlruns, trials=1)
    assert isinstance(result.spec.space, dict)
    assert result.spec.space["y"]["scale"] == "log"


def test_a_taken_name_is_refused_without_resume(mlruns: Path) -> None:
    run(mlruns, trials=2)
    with pytest.raises(Conflict, match=r"study s exists \(2 trials, finished .*--resume"):
        run(mlruns, trials=2)


def test_two_launches_of_one_name_at_the_same_moment_do_not_mix(mlruns: Path) -> None:
    described = spec(trials=2)
    _, folder, problem = prepare(described, Launch(mlruns))  # both found the name free
    run(mlruns, trials=2)
    from hpo.opening import open_for_driving

    with pytest.raises(Conflict, match="exists"):
        open_for_driving(problem, folder)


@pytest.mark.parametrize(
    "changed",
    [{"sampler": "random"}, {"seed": 1}, {"steps": 10}, {"seeds": 2}, {"prune": "median"}],
)
def test_a_resumed_study_may_not_change_what_it_is(mlruns: Path, changed: dict[str, Any]) -> None:
    run(mlruns, trials=1)
    with pytest.raises(HpoError, match=r"study s (was started with|trains)"):
        resume(mlruns, **changed)
    assert len(resume(mlruns).records) == 1


# -- pruning ------------------------------------------------------------------------------------

MEDIAN = {"median": {"startup_trials": 1, "warmup_steps": 0}}


def pruned_study(mlruns: Path, marks: Path, **keywords: Any) -> Result:
    options = {"folder": str(marks)}
    return run(mlruns, "rising", objective_options=options, space=X, prune=MEDIAN, **keywords)


def test_a_pruned_trial_is_closed_and_keeps_the_value_it_had(mlruns: Path, marks: Path) -> None:
    result = pruned_study(mlruns, marks)
    assert outcomes(result) == ["complete", "pruned", "pruned", "pruned"]
    assert len(list(marks.glob("finally-*"))) == 4
    assert [r.value for r in result.records] == [0.1, 2.0, 3.0, 4.0]
    assert [
        len([e for e in events(result, "measurement") if e["trial"] == n]) for n in range(4)
    ] == [10, 1, 1, 1]


def test_pruned_trials_count_in_the_budget_but_not_in_the_ranking(
    mlruns: Path, marks: Path
) -> None:
    result = pruned_study(mlruns, marks)
    assert len(result.ranked) == 1
    assert [e["outcome"] for e in events(result, "end")] == outcomes(result)


def test_the_default_median_pruner_spares_the_first_trials_and_the_first_steps(
    mlruns: Path, marks: Path
) -> None:
    result = run(
        mlruns,
        "rising",
        objective_options={"folder": str(marks)},
        space=X,
        prune="median",
        trials=6,
    )
    assert outcomes(result) == ["complete"] * 4 + ["pruned"] * 2
    assert [r.step for r in result.records[4:]] == [2, 2]


# -- failures -----------------------------------------------------------------------------------


def failing(mlruns: Path, objective: str, **keywords: Any) -> TrialRecord:
    with pytest.raises(NothingSucceeded):
        run(mlruns, objective, trials=1, space=X, **keywords)
    from hpo.result import open_study

    return open_study("s", mlruns).records[0]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("raises", "ValueError: expected 3 channels, got 1  (toy_objectives.py:"),
        ("returns_nothing", "returned nothing"),
        ("yields_nothing", "ended without yielding anything"),
        ("other_metric", "returned loss, not val_loss, which the study minimizes"),
        ("text_metric", "gave val_loss = 'low', which is not a number"),
        ("exits", "the objective called sys.exit(3)"),
        ("holdout_nan", "it ended without a finite measurement"),
    ],
)
def test_a_failed_trial_says_why(mlruns: Path, objective: str, message: str) -> None:
    record = failing(mlruns, objective)
    assert record.state == "failed"
    assert record.reason == ("nan" if objective == "holdout_nan" else "error")
    assert message in record.message
    assert not record.attempts


def test_the_traceback_of_a_failed_trial_is_kept_in_its_folder(mlruns: Path) -> None:
    failing(mlruns, "raises")
    text = (mlruns / "studies" / "s" / "trials" / "00000" / "error.txt").read_text()
    assert text.startswith("Traceback") and "raise ValueError" in text


def test_a_metric_that_is_not_finite_ends_the_trial_at_once_and_is_not_tried_again(
    mlruns: Path, marks: Path
) -> None:
    record = failing(mlruns, "never_finite", objective_options={"folder": str(marks)})
    assert (record.reason, record.message) == ("nan", "val_loss is nan at step 2")
    assert len(list(marks.glob("begun-*"))) == 1
    assert not list(marks.glob("went-on-*"))


def test_a_task_that_lacks_the_metric_fails_with_a_message_and_not_with_a_bug(
    mlruns: Path,
) -> None:
    with pytest.raises(NothingSucceeded, match="not val_eror, which the study minimizes"):
        run(mlruns, "toy_tasks:Blobs", minimize="val_eror", steps=5, trials=1, space="l2")


# -- retrying -----------------------------------------------------------------------------------

LOST = Outcome("failed", "lost", "the worker was killed by SIGKILL", worker="here/0 cpu")


def test_a_lost_trial_is_run_again_under_its_number_as_a_new_attempt(mlruns: Path) -> None:
    study = opened(mlruns, trials=1, retries=2)
    seen: list[dict[str, Any]] = []
    study.sinks.append(lambda event: seen.append(dict(event)))
    plan = study.ask()
    assert plan is not None
    study.observe(0, at(1, 1.0))
    study.tell(0, LOST)
    assert not study.done()
    again = study.ask()
    assert again is not None
    assert (again.number, again.attempt, again.schedule) == (0, 1, plan.schedule)
    study.observe(0, at(1, 1.0))
    study.tell(0, Outcome("complete"))
    (record,) = study.records()
    study.close()
    assert record.state == "complete"
    assert [dict(a) for a in record.attempts] == [
        {
            "attempt": 0,
            "reason": "lost",
            "message": LOST.message,
            "step": 1,
            "worker": "here/0 cpu",
        }
    ]
    told = [(e["event"], e["attempt"], e.get("outcome")) for e in seen if e["event"] != "best"]
    assert told == [
        ("start", 0, None),
        ("measurement", 0, None),
        ("retry", 0, None),
        ("end", 0, "failed"),
        ("start", 1, None),
        ("measurement", 1, None),
        ("end", 1, "complete"),
    ]


def test_a_trial_lost_before_it_measured_anything_goes_on_as_the_same_attempt(
    mlruns: Path,
) -> None:
    study = opened(mlruns, trials=1)
    study.ask()
    study.tell(0, LOST)
    again = study.ask()
    assert again is not None and again.attempt == 0
    study.close()


def test_a_trial_lost_at_the_same_step_too_often_fails(mlruns: Path) -> None:
    study = opened(mlruns, trials=1, retries=2)
    for _ in range(3):
        assert study.ask() is not None
        study.observe(0, at(1, 1.0))
        study.tell(0, LOST)
    assert study.ask() is None
    (record,) = study.records()
    study.close()
    assert (record.state, record.reason, len(record.attempts)) == ("failed", "lost", 2)


def test_progress_starts_the_count_of_lost_executions_anew(mlruns: Path) -> None:
    study = opened(mlruns, trials=1, retries=1)
    for last in (1, 2, 3, 4):
        assert study.ask() is not None
        for step in range(1, last + 1):
            study.observe(0, at(step, 1.0))
        study.tell(0, LOST)
    assert study.ask() is not None
    study.close()


def test_no_retries_means_none(mlruns: Path) -> None:
    for name, outcome in (("a", LOST), ("b", Outcome("failed", "oom", "MemoryError"))):
        study = opened(mlruns, name=name, trials=1, retries=0)
        study.ask()
        study.tell(0, outcome)
        assert [r.state for r in study.records()] == ["failed"]
        study.close()


@pytest.mark.parametrize("reason", ["nan", "error"])
def test_what_would_fail_again_is_never_tried_again(mlruns: Path, reason: Any) -> None:
    study = opened(mlruns, trials=1, retries=5)
    study.ask()
    study.tell(0, Outcome("failed", reason, "it failed"))
    assert study.done()
    study.close()


OOM = Outcome("failed", "oom", "MemoryError")


def test_out_of_memory_is_tried_again_once_and_alone(mlruns: Path) -> None:
    study = opened(mlruns, trials=5, retries=2)
    study.ask()
    study.ask()
    study.tell(0, OOM)
    assert study.ask() is None and not study.done()  # trial 1 still runs
    study.observe(1, at(1, 1.0))
    study.tell(1, Outcome("complete"))
    alone = study.ask()
    assert alone is not None and (alone.number, alone.alone) == (0, True)
    assert study.ask() is None  # nothing beside it
    study.tell(0, OOM)
    nxt = study.ask()
    assert nxt is not None and nxt.number == 2
    record = study.records()[0]
    study.close()
    assert (record.state, record.reason, len(record.attempts)) == ("failed", "oom", 1)


def test_a_trial_that_ran_out_of_memory_stays_alone_when_it_is_lost_or_resumed(
    mlruns: Path,
) -> None:
    study = opened(mlruns, trials=5)
    study.ask()
    study.tell(0, OOM)
    assert study.ask() is not None
    study.tell(0, LOST)
    again = study.ask()
    assert again is not None and again.alone
    study.close()
    resumed = opened(mlruns, trials=5)
    adopted = resumed.ask()
    assert adopted is not None and (adopted.number, adopted.alone) == (0, True)
    resumed.close()


def test_running_out_of_memory_in_the_same_process_is_retried(mlruns: Path, marks: Path) -> None:
    result = run(
        mlruns, "out_of_memory", trials=2, space=X, objective_options={"folder": str(marks)}
    )
    assert outcomes(result) == ["complete", "complete"]
    assert [len(r.attempts) for r in result.records] == [1, 0]
    assert [e["reason"] for e in events(result, "retry")] == ["oom"]


def test_a_second_writer_is_noticed(mlruns: Path) -> None:
    study = opened(mlruns)
    study.ask()
    study.optuna.ask()
    with pytest.raises(HpoError, match="another program writes to this study"):
        study.ask()
    study.close()
