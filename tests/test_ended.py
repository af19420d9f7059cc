"""How a study ended, as its result, its lists and its last lines tell it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from shell import hpo
from studies import X, events, opened, resume, run

from hpo import ended
from hpo.errors import Interrupted
from hpo.result import Result, read
from hpo.spec import Budget, StudySpec
from hpo.summary import closing
from hpo.trial import Outcome
from objectives.training.measurement import Measurement

pytestmark = pytest.mark.usefixtures("quick")

GRID: dict[str, Any] = {"sampler": "grid", "sampler_options": {"points": 3}, "trials": 9}


def line(result: Result, word: str) -> str:
    """The line of the closing block that begins with this word, or nothing."""
    return next((text for text in closing(result) if text.startswith(word)), "")


def test_a_study_that_ran_all_its_trials_is_finished(mlruns: Path) -> None:
    result = run(mlruns, "flat", space=X)
    assert (result.state, result.why) == ("finished", "trials")
    assert line(result, "ended") == ""


def test_a_plateau_finishes_a_study(mlruns: Path) -> None:
    result = run(mlruns, "flat", space=X, trials=9, plateau=2)
    assert (result.state, result.why, result.ended) == ("finished", "plateau", 3)
    assert line(result, "ended") == "ended     after 3 of 9 trials: no better trial in the last 2"
    shown = hpo("show", "--mlruns", mlruns).out.splitlines()
    assert shown[0].endswith("   finished")
    assert shown[2] == "finished    no better trial in the last 2"
    assert hpo("list", "--mlruns", mlruns).out.splitlines()[1].endswith("finished (plateau)")
    document = hpo("show", "--mlruns", mlruns, "--json").document
    assert (document["state"], document["why"]) == ("finished", "plateau")


def test_an_exhausted_grid_finishes_a_study(mlruns: Path) -> None:
    result = run(mlruns, "curve", space=X, **GRID)
    assert (result.state, result.why, result.ended) == ("finished", "exhausted", 3)
    told = "ended     after 3 of 9 trials: sampler grid has proposed all it has"
    assert line(result, "ended") == told


def test_the_end_of_its_time_finishes_a_run_and_another_has_it_again(
    mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    with monkeypatch.context() as patched:
        patched.setattr("hpo.study.time.monotonic", lambda: float(next(clock)))
        first = run(mlruns, "flat", space=X, trials=99, time="9s")
    assert (first.state, first.why) == ("finished", "time") and 0 < first.ended < 99
    more = f"continue:  hpo run --resume --name s --mlruns {mlruns}"
    told = f"after {first.ended} of 99 trials: its time was up (9.0s a run)   {more}"
    assert line(first, "ended") == f"ended     {told}"
    assert (
        f"finished    its time was up (9.0s a run)   {more}" in hpo("show", "--mlruns", mlruns).out
    )
    with monkeypatch.context() as patched:
        patched.setattr("hpo.study.time.monotonic", lambda: float(next(clock)))
        second = resume(mlruns)
    assert second.ended == 2 * first.ended


def test_a_study_that_begins_again_is_not_finished(mlruns: Path) -> None:
    """Its driver may die at any moment: what ended it before does not count any more."""
    assert run(mlruns, "flat", space=X, trials=9, plateau=2).state == "finished"
    study = opened(mlruns, "flat", space=X, trials=9, plateau=5)
    study.close()
    result = read(study.folder)
    assert (result.state, result.why) == ("stopped", "")


def test_failures_and_interrupts_leave_a_study_to_continue(mlruns: Path) -> None:
    with pytest.raises(Exception, match="3 of 3 trials failed"):
        run(mlruns, "raises", name="f", space=X, trials=9)
    with pytest.raises(Interrupted):
        run(mlruns, "interrupts_itself", name="i", space=X)
    listed = hpo("list", "--mlruns", mlruns, "--json").document["studies"]
    found = {row["study"]: (row["state"], row["why"]) for row in listed}
    assert found == {"f": ("stopped", "failures"), "i": ("stopped", "interrupted")}


def test_a_study_stopped_before_its_first_trial_ended_says_how_to_continue(mlruns: Path) -> None:
    """hpo stop --now."""
    study = opened(mlruns, "flat", space=X)
    study.stopping = "now"
    study.emit("close", status="stopped", why="stopped", best=None)
    study.close()
    result = read(study.folder)
    assert (result.state, result.why) == ("stopped", "stopped")
    assert line(result, "no trial has completed yet")
    told = f"after 0 of 4 trials   continue:  hpo run --resume --name s --mlruns {mlruns}"
    assert line(result, "ended") == f"ended     {told}"


def test_a_worker_that_died_has_its_log_named(mlruns: Path) -> None:
    log = mlruns / "studies" / "s" / "worker-1.log"
    study = opened(mlruns, "flat", space=X, trials=1, retries=0)
    for reason in ("oom", "lost"):
        plan = study.ask()
        if plan is not None:
            study.observe(plan.number, Measurement(1, 1.0, {"val_loss": 1.0}, {}, {}))
            outcome = Outcome("failed", reason, "gone", worker="host/1 cpu")  # type: ignore[arg-type]
            study.tell(plan.number, outcome)
    study.close()
    assert "its worker's log" not in hpo("show", "--mlruns", mlruns).out
    log.write_text("can't start new thread\n")
    told = f"its worker's log: {log}"
    assert told in hpo("show", "--mlruns", mlruns).out
    assert told in hpo("show", "--trial", "0", "--mlruns", mlruns).out
    from hpo.launch import nothing_succeeded

    assert f"what its worker said: {log}" in nothing_succeeded(read(study.folder)).hint


@pytest.mark.parametrize("pieces", [1, 7, 65536])
def test_the_last_line_of_a_spool_is_read_alone(
    pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended, "PIECE", pieces)
    spool, last = tmp_path / "events.jsonl", json.dumps({"event": "close", "why": "plateau"})
    texts = {
        last + "\n": "plateau",
        '{"event":"end"}\n' * 40 + last + "\n": "plateau",
        last + "\n" + '{"event":"study"}\n': "",
        last + '\n{"event":"clo': "",
        last: "",
        '{"event":"close"}\n': "",
        '"close"\n': "",
        "\n": "",
        "": "",
    }
    assert ended.read(spool) == ""
    for text, reason in texts.items():
        spool.write_text(text)
        assert ended.read(spool) == reason, text


def test_every_reason_to_be_finished_has_words() -> None:
    spec = StudySpec(objective="x", budget=Budget(plateau=3, time=60.0))  # type: ignore[call-arg]
    assert all(ended.told(reason, spec) for reason in ended.FINISHED)
    assert not ended.told("stopped", spec)


def test_the_last_event_says_why(mlruns: Path) -> None:
    assert events(run(mlruns, "flat", space=X), "close")[0]["why"] == "trials"
