"""What a tuner says on its way from the training loop to measurements, events, lines and MLflow."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from studies import events as spooled
from studies import opened
from toy_tasks import SHORT, Blobs, constant, numbers, run

from hpo import events
from hpo.cli import _diagnostics, _study
from hpo.console import Console
from hpo.jsonline import json_line
from hpo.result import Result, read
from hpo.running import Running
from hpo.tracking import parcel
from hpo.trial import Outcome, _mean
from objectives.training.measurement import Measurement, is_diagnostic
from search_spaces.errors import HpoError

NOTE = "dropout has reached its upper end 0.70: widen its range"
TOLD = {"stn/snr/x": 3.1, "stn/sigma/x": 0.25, "stn/expected/x": 0.52, "stn/overhead": 0.4}


class Telling:
    """A tuner that follows constant knobs and has something to say at each measurement."""

    def __init__(self, report: Mapping[str, float] | None = None) -> None:
        self.follow = constant(dropout=0.3)
        self.given = {"stn/gain": 0.5} if report is None else dict(report)
        self.losses: list[Mapping[str, float]] = []
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.follow, name)

    def measured(self, run: Any, metrics: Mapping[str, float]) -> None:
        assert run.step > 0
        self.losses.append(dict(metrics))

    def report(self) -> Mapping[str, float]:
        return self.given

    def spread(self) -> Mapping[str, Any]:
        return {"dropout": 0.5, "l2": (0.1, 0.2)}

    def notes(self) -> list[str]:
        self.calls += 1
        return [NOTE] if self.calls == 2 else []

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def at(step: int, value: float, *notes: str, **metrics: float) -> Measurement:
    told = {name: number for name, number in TOLD.items() if not metrics} | metrics
    found = {"train_loss": 1.0, "val_loss": value, **told}
    return Measurement(step, step / 10, found, {"x": 0.5}, {"seconds": 1.0}, {"x": 0.25}, notes)


# -- measurements -------------------------------------------------------------------------------


def test_spread_and_notes_are_written_only_where_there_are_some() -> None:
    plain = Measurement(1, 0.5, {"val_loss": 1.0}, {"x": (1.0, 2.0)})
    assert set(plain.to_json()) == {"step", "progress", "metrics", "point", "cost"}
    full = Measurement(1, 0.5, {"val_loss": 1.0}, {}, {}, {"x": (0.5, 0.25), "y": 0.5}, (NOTE,))
    for measurement in (plain, full):
        assert Measurement.from_json(json.loads(json.dumps(measurement.to_json()))) == measurement
    assert full.to_json()["spread"] == {"x": [0.5, 0.25], "y": 0.5}


def test_a_measurement_of_something_else_is_refused() -> None:
    data = Measurement(1, 0.5, {"val_loss": 1.0}).to_json()
    for wrong in ({**data, "note": []}, {k: v for k, v in data.items() if k != "cost"}):
        with pytest.raises(HpoError, match="not a measurement"):
            Measurement.from_json(wrong)


def test_only_metrics_about_the_tuner_are_diagnostics() -> None:
    assert is_diagnostic("stn/gain") and not is_diagnostic("val_loss")
    assert not is_diagnostic("val/stn/gain")


# -- the loop -----------------------------------------------------------------------------------


def test_the_loop_asks_a_tuner_what_it_has_to_say() -> None:
    tuner = Telling()
    found = run(Blobs(), tuner=tuner, knobs={"dropout": 0.3})
    assert [m.notes for m in found] == [(), (NOTE,), (), ()]
    assert all(m.spread == {"dropout": 0.5, "l2": (0.1, 0.2)} for m in found)
    assert all(m.metrics["stn/gain"] == 0.5 for m in found)
    assert [set(losses) for losses in tuner.losses] == [set(found[0].metrics) - {"stn/gain"}] * 4
    assert [losses["val_loss"] for losses in tuner.losses] == [m.metrics["val_loss"] for m in found]


def test_a_tuner_that_says_nothing_is_measured_as_before() -> None:
    found = run(Blobs(), tuner=Telling({}), knobs={"dropout": 0.3})
    plain = run(Blobs(), knobs={"dropout": 0.3})
    assert numbers(found) == numbers(plain)
    assert all(m.spread == {} and m.notes == () for m in plain)


def test_a_report_replaces_no_loss_and_holds_finite_numbers_only() -> None:
    said = {"val_loss": 0.0, "stn/gain": math.nan, "stn/gain_t": 2.0}
    found = run(Blobs(), tuner=Telling(said), knobs={"dropout": 0.3})
    plain = run(Blobs(), knobs={"dropout": 0.3})
    assert found[-1].metrics == {**plain[-1].metrics, "stn/gain_t": 2.0}
    assert found[-1].finite


def test_notes_are_there_again_when_a_run_goes_on(tmp_path: Path) -> None:
    from toy_tasks import regularizers

    from objectives.training.loop import train

    file, whole = tmp_path / "c.pt", run(Blobs(), tuner=Telling(), knobs={"dropout": 0.3})
    first = train(Blobs(), regularizers("dropout"), Telling(), SHORT, 0, checkpoint=file)  # type: ignore[arg-type]
    for _ in range(2):
        next(first)
    first.close()
    again = run(Blobs(), tuner=Telling(), knobs={"dropout": 0.3}, checkpoint=file)
    assert [m.notes for m in again] == [m.notes for m in whole]
    assert numbers(again) == numbers(whole) and again[1].spread == whole[1].spread


def test_a_model_that_diverges_has_no_diagnostics_made_up_for_it() -> None:
    class Exploding(Blobs):
        def loss(self, model: Any, batch: Any) -> Any:
            late = model.training and len(self.seen) >= 7
            return super().loss(model, batch) * (math.inf if late else 1.0)

    tuner = Telling()
    found = run(Exploding(), tuner=tuner, knobs={"dropout": 0.3})
    assert math.isnan(found[-1].metrics["val_loss"])
    assert found[-1].metrics["stn/gain"] == 0.5  # what it says itself
    assert len(tuner.losses) == len(found) - 1  # there were none to take in
    silent = Telling()
    silent.given = {}
    silent.report = lambda: {} if silent.calls >= 2 else {"stn/gain": 0.5}  # type: ignore[method-assign]
    last = run(Exploding(), tuner=silent, knobs={"dropout": 0.3})[-1]
    assert not any(is_diagnostic(name) for name in last.metrics)


def test_seeds_side_by_side_say_the_same_thing_once() -> None:
    mean = _mean([at(1, 1.0, NOTE, "a"), at(1, 3.0, "b", NOTE)])
    assert mean.notes == (NOTE, "a", "b") and mean.spread == {"x": 0.25}
    assert mean.metrics["val_loss"] == 2.0 and mean.metrics["stn/snr/x"] == 3.1


# -- the study ----------------------------------------------------------------------------------


@pytest.fixture
def told(mlruns: Path) -> Result:
    """A study with trials 0 and 2 that say nothing, and trial 1, which says a lot."""
    study = opened(mlruns, trials=3, prune="median")
    for number in range(3):
        plan = study.ask()
        assert plan is not None
        if number == 1:
            assert study.observe(1, at(5, 0.4, NOTE, "sigma"))
            assert study.observe(1, at(10, 0.5, "later\nmore"))
        else:
            study.observe(number, Measurement(10, 1.0, {"val_loss": 0.6 + number}, {"x": 0.5}))
        study.tell(number, Outcome("complete"))
    study.close()
    return read(study.folder)


@pytest.mark.usefixtures("quick")
def test_events_carry_notes_only_where_there_are_some(told: Result) -> None:
    found = [(e["trial"], e.get("notes")) for e in spooled(told, "measurement")]
    assert found == [(0, None), (1, [NOTE, "sigma"]), (1, ["later\nmore"]), (2, None)]


@pytest.mark.usefixtures("quick")
def test_diagnostics_are_curves_and_neither_best_nor_final(told: Result) -> None:
    metrics = told.records[1].metrics
    assert metrics["best/val_loss"] == 0.4 and metrics["final/val_loss"] == 0.5
    assert not any("stn/" in name for name in metrics)
    assert told.records[1].value == 0.4 and told.best is not None and told.best.number == 1
    (end,) = [e for e in spooled(told, "end") if e["trial"] == 1]
    assert not any("stn/" in name for name in end["metrics"])


@pytest.mark.usefixtures("quick")
def test_mlflow_gets_them_step_by_step(told: Result) -> None:
    event = spooled(told, "measurement")[1]
    points = {point.key: (point.value, point.step) for point in parcel.measured(event)}
    assert points["stn/snr/x"] == (3.1, 5) and points["stn/overhead"] == (0.4, 5)
    assert points["val_loss"] == (0.4, 5) and points["h/x"] == (0.5, 5)
    assert parcel.clean("stn/sigma/l2[3]") == "stn/sigma/l2/3"


@pytest.mark.usefixtures("quick")
def test_show_tells_them_for_a_trial_that_has_some(told: Result) -> None:
    lines = _study.trial_lines(told, told.records[1])
    begun = lines.index("diagnostics at step 10")
    assert lines[begun + 1 :] == [
        "knob  signal/noise  perturbation  value  mean value",
        "x             3.10         0.250  0.500       0.520",
        "a step takes longer by          40%",
        "start values, held fixed, reached 0.600 (trial 0)",
        f"note at step 5: {NOTE}",
        "note at step 5: sigma",
        "note at step 10: later",
    ]
    assert not any("stn/" in line for line in lines)
    assert not any("stn/" in line for line in _study.lines(told, 10))
    found = _study.trial_document(told, told.records[1])["diagnostics"]
    assert found["step"] == 10 and found["metrics"] == TOLD
    assert found["notes"][0] == {"step": 5, "note": NOTE}
    json_line(found)


@pytest.mark.usefixtures("quick")
def test_show_says_nothing_of_it_for_other_trials(told: Result) -> None:
    for number in (0, 2):
        assert _diagnostics.lines(told, told.records[number]) == []
        assert _study.trial_document(told, told.records[number])["diagnostics"] is None


@pytest.mark.usefixtures("quick")
def test_of_a_trial_that_began_anew_only_the_last_attempt_counts(mlruns: Path) -> None:
    study = opened(mlruns, trials=1)
    study.ask()
    study.observe(0, at(5, 0.4, "of the first attempt"))
    study.tell(0, Outcome("failed", "lost", "gone"))
    study.ask()
    study.observe(0, at(5, 0.3, "of the second"))
    study.tell(0, Outcome("complete"))
    study.close()
    found = _diagnostics.told(read(study.folder), 0)
    assert found is not None and found.notes == ((5, "of the second"),)


def test_strengths_of_vectors_and_choices_have_their_places() -> None:
    point = {"l2": [0.5, 0.25], "policy": "flip", "x": 0.5}
    values = [_diagnostics._value(point, name) for name in ("l2[1]", "policy[flip]", "x", "l2[9]")]
    assert values == [0.25, "-", 0.5, "-"]


# -- the console --------------------------------------------------------------------------------


def heard(style: Any, *measurements: Measurement) -> tuple[str, str]:
    from hpo.trial import Plan
    from search_spaces.schedule import Schedule
    from search_spaces.space import SearchSpace

    err, out = io.StringIO(), io.StringIO()
    console = Console(style, "val_loss", "minimize", err)
    console.out = out  # type: ignore[assignment]
    plan = Plan(1, 0, Schedule.constant(SearchSpace({}), {}), 0)
    for measurement in measurements:
        console({**events.measured(plan, measurement), "time": 0})
    console.close()
    return out.getvalue(), err.getvalue()


def test_each_note_is_one_line_under_its_trial() -> None:
    out, err = heard("lines", at(1, 1.0), at(2, 1.0, NOTE, "two\nlines"), at(3, 1.0))
    assert err == f"trial 1   note: {NOTE}\ntrial 1   note: two\n" and out == ""
    assert heard("quiet", at(2, 1.0, NOTE)) == ("", "")


def test_json_output_carries_notes() -> None:
    out, err = heard("json", at(1, 1.0), at(2, 1.0, NOTE))
    first, second = (json.loads(line) for line in out.splitlines())
    assert "notes" not in first and second["notes"] == [NOTE] and err == ""
    assert second["metrics"]["stn/snr/x"] == 3.1


def test_the_best_measurement_is_so_by_the_metric_alone() -> None:
    from hpo.spec import from_mapping

    spec = from_mapping({"objective": "digits", "name": "s"})
    running = Running(0, None, {})  # type: ignore[arg-type]
    for measurement in (at(1, 0.5, **{"stn/gain": 9.0}), at(2, 0.6, **{"stn/gain": -9.0})):
        running.take(measurement, spec)
    assert running.best is not None and running.best.step == 1
    assert running.end_metrics() == {
        **{"best/train_loss": 1.0, "best/val_loss": 0.5, "best/step": 1},
        **{"final/train_loss": 1.0, "final/val_loss": 0.6},
    }
