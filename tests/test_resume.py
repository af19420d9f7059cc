"""A study that was interrupted, anywhere, ends as the one that was not: bit for bit."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from studies import X, events, resume, run, table

from hpo.result import Result, open_study

pytestmark = pytest.mark.usefixtures("quick")
SOON = {"sampler": "tpe", "sampler_options": {"startup_trials": 1}}


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_seven_and_nine_resumed_trials_equal_sixteen(mlruns: Path, sampler: str) -> None:
    whole = run(mlruns, name="whole", trials=16, sampler=sampler)
    run(mlruns, name="parts", trials=7, sampler=sampler)
    assert table(resume(mlruns, "parts", trials=16)) == table(whole)


def test_the_same_in_a_worker_process_as_in_this_one(mlruns: Path) -> None:
    whole = run(mlruns, name="whole", trials=16)
    run(mlruns, name="parts", trials=7, workers=1)
    assert table(resume(mlruns, "parts", trials=16)) == table(whole)


@pytest.mark.parametrize("prune", ["hyperband", "median", "successive_halving"])
def test_pruned_studies_resume_equal_as_well(mlruns: Path, prune: str) -> None:
    # Hyperband takes a trial's bracket from the name of the study.
    whole = run(mlruns / "whole", trials=16, prune=prune, **SOON)
    assert "pruned" in {record.state for record in whole.records}
    run(mlruns / "parts", trials=7, prune=prune, **SOON)
    assert table(resume(mlruns / "parts", trials=16)) == table(whole)


def test_two_uninterrupted_studies_of_one_seed_are_equal_and_other_seeds_differ(
    mlruns: Path,
) -> None:
    first, again = (run(mlruns, name=name, trials=12, **SOON) for name in "ab")
    other = run(mlruns, name="c", trials=12, seed=1, **SOON)
    assert table(first) == table(again)
    assert table(first) != table(other)


# -- killed at every write ------------------------------------------------------------------------


@contextmanager
def a_copy_at_every_write(mlruns: Path, copies: Path) -> Iterator[list[Path]]:
    """Copies of the studies' folder as a kill would leave it before, and in, each write."""
    made: list[Path] = []
    write = os.write

    def copying(file: int, data: bytes) -> int:
        target = Path(f"/proc/self/fd/{file}").readlink()
        if target.is_relative_to(mlruns):
            for part in (b"", bytes(data[: len(data) // 2])):
                copy = copies / f"{len(made)}"
                shutil.copytree(mlruns, copy)
                with (copy / target.relative_to(mlruns)).open("ab") as torn:
                    torn.write(part)
                made.append(copy)
        return write(file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", copying)
        yield made


CASES: dict[str, dict[str, Any]] = {
    "tpe": {"trials": 4, "objective_options": {"steps": 2}, **SOON},
    "successive halving": {
        "trials": 4,
        "objective_options": {"steps": 2},
        "prune": {"successive_halving": {"reduction_factor": 2}},
        **SOON,
    },
    "two seeds": {"trials": 2, "seeds": 2, "objective_options": {"steps": 2}, "sampler": "random"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_driver_killed_at_any_write_to_its_files_is_continued_to_the_same_end(
    mlruns: Path, tmp_path: Path, case: str
) -> None:
    with a_copy_at_every_write(mlruns, tmp_path / "copies") as copies:
        whole = run(mlruns, **CASES[case])
    assert len(copies) > 20
    for copy in copies:
        result = finished(copy, **CASES[case])
        assert table(result) == table(whole), copy
        check_events(result)


def test_a_task_killed_at_any_write_goes_on_from_its_checkpoint_to_the_same_end(
    mlruns: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "objective": "toy_tasks:Restless",
        "space": {"dropout": None, "weight_decay": None},
        "training": {"evaluations": 2},
        "steps": 6,
        "trials": 2,
    }
    with a_copy_at_every_write(mlruns, tmp_path / "copies") as copies:
        whole = run(mlruns, **options)
    for copy in copies[::3]:
        result = finished(copy, **options)
        assert table(result) == table(whole), copy
        check_events(result)
        assert not list(result.folder.path.glob("trials/*/*.pt"))


def finished(mlruns: Path, **options: Any) -> Result:
    """The study in the folder run to its end, from whatever is there of it."""
    if (mlruns / "studies" / "s" / "spec.yaml").exists():
        return resume(mlruns)
    return run(mlruns, **options)


def check_events(result: Result) -> None:
    """What listeners got: each attempt begins and ends once, each step is there once."""
    found = events(result)
    per_attempt = Counter(
        (e["event"], e["trial"], e["attempt"]) for e in found if e["event"] in {"start", "end"}
    )
    assert set(per_attempt.values()) == {1}
    assert {key[1:] for key in per_attempt if key[0] == "start"} == {
        key[1:] for key in per_attempt if key[0] == "end"
    }
    steps = Counter(
        (e["trial"], e["attempt"], e["step"]) for e in found if e["event"] == "measurement"
    )
    assert set(steps.values()) <= {1}
    last = {e["trial"]: e for e in found if e["event"] == "end"}
    for record in result.records:
        assert last[record.number]["outcome"] == record.state
        told = {k: v for k, v in last[record.number]["metrics"].items() if k != "seconds"}
        assert told == dict(record.metrics)
    best = [e["trial"] for e in found if e["event"] == "best"]
    assert result.best is not None and best[-1] == result.best.number
    assert result.folder.schedule.read_text().startswith("{")


# -- a journal that lost its end ------------------------------------------------------------------


def test_a_journal_cut_at_any_line_is_continued_to_the_same_table(
    mlruns: Path, tmp_path: Path
) -> None:
    whole = run(mlruns, trials=4, **SOON)
    lines = whole.folder.journal.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        for torn in (b"", lines[kept][: 1 + 7 * kept % (len(lines[kept]) - 1)]):
            copy = tmp_path / f"{kept}{bool(torn)}"
            shutil.copytree(mlruns, copy)
            journal = copy / "studies" / "s" / "journal.log"
            journal.write_bytes(b"".join(lines[:kept]) + torn)
            assert table(resume(copy)) == table(whole), (kept, torn)


def test_a_study_whose_event_file_is_gone_is_continued(mlruns: Path) -> None:
    whole = run(mlruns, name="whole", trials=5, **SOON)
    parts = run(mlruns, name="parts", trials=2, **SOON)
    parts.folder.spool.unlink()
    result = resume(mlruns, "parts", trials=5)
    assert table(result) == table(whole)
    assert [e["trial"] for e in events(result, "end")] == [0, 1, 2, 3, 4]


# -- what a dead driver did not tell --------------------------------------------------------------


def killed_after(event: str, mlruns: Path, **options: Any) -> None:
    """Runs a study up to the first write of an event of this kind, which is not written."""

    class Killed(BaseException):
        pass

    from hpo.spool import Spool

    append: Callable[..., None] = Spool.append

    def dying(self: Spool, record: Any) -> None:
        if record["event"] == event:
            raise Killed
        append(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "append", dying)
        with pytest.raises(Killed):
            run(mlruns, **options)


def test_a_trial_that_ended_but_was_not_told_is_told_by_the_next_driver(mlruns: Path) -> None:
    killed_after("end", mlruns, trials=2)
    assert open_study("s", mlruns).records[0].state == "complete"
    check_events(resume(mlruns))


def test_the_schedule_file_is_that_of_the_best_trial_after_any_death(mlruns: Path) -> None:
    run(mlruns, trials=6, sampler="random", space=X)
    result = resume(mlruns, trials=7)
    result.folder.schedule.write_text("{}")
    result = resume(mlruns)
    assert result.best is not None
    assert json.loads(result.folder.schedule.read_text()) == result.best.schedule.to_json()


def test_checkpoints_of_ended_trials_are_removed_by_the_next_driver(mlruns: Path) -> None:
    result = run(mlruns, trials=1)
    folder = result.folder.trial(0)
    folder.mkdir(parents=True)
    (folder / "seed-0.pt").write_bytes(b"left")
    (folder / "seed-0.pt.unfinished").write_bytes(b"left")
    resume(mlruns)
    assert not folder.exists()
