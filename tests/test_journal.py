"""The ledger's file: Optuna reads it, it survives a writer's death, and damage is named."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from studies import OBJECTIVES, run

from hpo.errors import HpoError
from hpo.journal import Journal, ReadOnlyJournal
from hpo.result import open_study


def ours(path: Path, name: str = "s") -> tuple[optuna.Study, Journal]:
    journal = Journal(path)
    storage = JournalStorage(journal)
    if path.stat().st_size:
        return optuna.load_study(study_name=name, storage=storage), journal
    return optuna.create_study(study_name=name, storage=storage), journal


def theirs(path: Path, name: str = "s") -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(path))),
        load_if_exists=True,
    )


def drive(study: optuna.Study, trials: int) -> None:
    """Every kind of line a study writes."""
    study.set_user_attr("key", {"text": "ä \u2028 \n", "numbers": [1, 2.5, None]})
    study.enqueue_trial({"x": 0.25})
    for number in range(trials):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("kind", ["a", None, True, 2])
        trial.report(x, step=1)
        trial.set_user_attr("outcome", {"x": x, "bad": float("nan"), "worse": float("inf")})
        states = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL]
        state = states[number % 2]
        study.tell(trial, x if number % 2 == 0 else None, state)
    study.ask()


def seen(study: optuna.Study) -> list[str]:
    return [repr(trial) for trial in study.get_trials()]


def test_optuna_opens_our_journal_and_sees_the_same_trials(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    with journal.together():
        drive(study, 4)
    journal.close()
    assert seen(theirs(path)) == seen(study)
    assert theirs(path).user_attrs == study.user_attrs


def test_we_open_optunas_journal_and_both_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    written = theirs(path)
    drive(written, 3)
    study, journal = ours(path)
    assert seen(study) == seen(written)
    drive(study, 1)
    journal.close()
    assert seen(theirs(path)) == seen(study)


def test_a_reader_follows_a_writer_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    reader = optuna.load_study(study_name="s", storage=JournalStorage(ReadOnlyJournal(path)))
    for trials in (1, 2):
        drive(study, trials)
        assert seen(reader) == seen(study)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert seen(reader) == seen(study)
    with pytest.raises(HpoError, match="reading only"):
        reader.ask()
    journal.close()


def test_a_last_line_torn_at_any_byte_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    drive(study, 1)
    before = path.stat().st_size
    frozen = seen(study)
    study.ask()
    journal.close()
    whole = path.read_bytes()
    for cut in range(before, len(whole)):
        path.write_bytes(whole[:cut])
        reopened, again = ours(path)
        assert path.stat().st_size == before
        assert seen(reopened) == frozen
        again.close()
    path.write_bytes(whole[: before + 7])
    reopened, again = ours(path)
    reopened.ask()
    again.close()
    assert len(seen(theirs(path))) == len(frozen) + 1


def test_a_piece_torn_anywhere_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    before = path.stat().st_size
    with journal.together():
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_float("y", 0, 1)
    journal.close()
    whole = path.read_bytes()
    assert whole[before:].count(b"\n") == 3
    for cut in range(before, len(whole), 5):
        path.write_bytes(whole[:cut])
        reopened, again = ours(path)
        assert path.stat().st_size == before and not reopened.get_trials()
        again.close()


@pytest.mark.parametrize("damage", [b"\x00\xff\xfe", b"{}", b"[1]", b'{"op_code":', b"null", b""])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    drive(study, 2)
    journal.close()
    lines = path.read_bytes().split(b"\n")
    lines[4] = damage
    path.write_bytes(b"\n".join(lines))
    for backend in (Journal(path), ReadOnlyJournal(path)):
        with pytest.raises(HpoError) as caught:
            JournalStorage(backend)
        assert str(caught.value).startswith(f"{path}:5: this line of the ledger is damaged")
        assert "head -n 4" in str(caught.value)
    assert path.read_bytes() == b"\n".join(lines)


def test_what_is_written_together_reaches_the_disk_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, journal = ours(tmp_path / "journal.log")
    written: list[bytes] = []
    synced: list[int] = []
    write, sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda f, data: (written.append(data), write(f, data))[1])
    monkeypatch.setattr(os, "fsync", lambda f: (synced.append(f), sync(f))[1])
    with journal.together():
        trial = study.ask()
        with journal.together():
            trial.suggest_float("x", 0, 1)
        study.tell(trial, 1.0)
        assert not written
    assert len(written) == len(synced) == 1
    with journal.together(durable=False):
        study.set_user_attr("a", 1)
    assert len(written) == 2 and len(synced) == 1
    with journal.together():
        pass
    assert len(written) == 2
    journal.close()


def test_a_write_that_is_cut_short_is_carried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
    drive(study, 2)
    journal.close()
    assert seen(theirs(path)) == seen(study)


def test_a_full_disk_is_an_error_and_loses_nothing_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    write, room = os.write, 30

    def little_room(file: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(file, data[:room])
        room -= done
        return done

    with monkeypatch.context() as full:
        full.setattr(os, "write", little_room)
        with pytest.raises(HpoError) as caught:
            study.set_user_attr("lost", "not at all")
        assert str(caught.value).startswith(
            f"{path}: cannot write the ledger: No space left on device"
        )
        assert "--resume" in str(caught.value)
        with pytest.raises(HpoError):
            study.set_user_attr("later", 1)
    drive(study, 2)
    journal.close()
    assert theirs(path).user_attrs["lost"] == "not at all"
    assert seen(theirs(path)) == seen(study)


def test_a_journal_closed_on_a_full_disk_is_whole_when_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.log"
    study, journal = ours(path)
    drive(study, 1)

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(HpoError), journal.together():
            study.ask().suggest_float("x", 0, 1)
        journal.close()
    reopened, again = ours(path)
    assert len(reopened.get_trials()) == 2
    again.close()


def test_a_place_that_cannot_be_a_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HpoError, match="cannot write the ledger: Is a directory"):
        Journal(tmp_path)


def test_lines_leave_memory_once_they_are_read(tmp_path: Path) -> None:
    study, journal = ours(tmp_path / "journal.log")
    for _ in range(3):
        with journal.together():
            drive(study, 10)
    assert not journal._unread and not journal._unwritten
    journal.close()


def test_a_disk_that_fills_up_during_a_study_ends_it_with_one_message_and_it_can_go_on(
    tmp_path: Path, mlruns: Path
) -> None:
    whole = run(mlruns, name="whole", trials=12)
    size = whole.folder.journal.stat().st_size // 2
    arguments = ["--mlruns", str(tmp_path / "full"), "--name", "s", "--no-mlflow", "--workers", "0"]
    start = [*arguments, "--objective", f"{OBJECTIVES}:curve", "--trials", "12"]
    ended = command("run", *start, limit=size)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "journal.log: cannot write the ledger: File too large" in ended.stderr
    ended = command("run", "--resume", *arguments)
    assert ended.returncode == 0, ended.stderr
    found = open_study("s", tmp_path / "full")
    assert [(r.value, r.coordinates) for r in found.records] == [
        (r.value, r.coordinates) for r in whole.records
    ]


def command(*arguments: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process whose files cannot grow beyond `limit` bytes."""

    def small_files() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    call: list[Any] = [sys.executable, "-c", "from hpo.cli import main; main()", *arguments]
    return subprocess.run(call, capture_output=True, text=True, preexec_fn=small_files, check=False)


def test_every_line_is_json_that_optuna_knows(mlruns: Path) -> None:
    result = run(mlruns, prune="median", trials=2)
    lines = result.folder.journal.read_text().splitlines()
    operations = [json.loads(line)["op_code"] for line in lines]
    assert set(operations) <= set(range(10))
