"""`hpo doctor`: each thing that can be wrong is found, said in a line, with what to do."""

import json
import os
import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hpo import doctor
from hpo.lock import lock
from hpo.spool import Spool
from hpo.tracking import cursor as cursors
from hpo.tracking import health
from hpo.tracking.server import Answer


def only(found):
    (check,) = found
    return check


def make_database(file, schema, place=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (schema,))
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.execute("INSERT INTO runs VALUES ('a')")
        database.execute(
            "CREATE TABLE experiments (experiment_id INTEGER, name TEXT, artifact_location TEXT)"
        )
        location = (place or file.parent / "artifacts").as_uri()
        rows = [(0, "Default", "./mlruns/0"), (1, "digits", location)]
        database.executemany("INSERT INTO experiments VALUES (?, ?, ?)", rows)
        database.commit()


@pytest.fixture
def newest():
    known = health._revisions()
    (head,) = set(known) - set(known.values())
    return head


def make_study(mlruns, name="quick", cursor_at=None):
    folder = mlruns / "studies" / name
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("name: quick\n")
    spool = Spool(folder / "events.jsonl")
    spool.append({"event": "study"})
    spool.close()
    if cursor_at is not None:
        cursor = cursors.fresh("sqlite:////x")
        cursor.offset = cursor_at
        cursor.save(folder / "mlflow-cursor.json")
    return folder


def test_everything_is_looked_at_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        doctor, "_DEVICES", 'print(\'{"cuda":[],"mps":false,"built":"","threads":2}\')'
    )
    mlruns = tmp_path / "mlruns"
    found = doctor.checks(mlruns)
    names = {check.name for check in found}
    assert names >= {"python", "torch", "mlflow", "devices", "machine", "folder", "studies"}
    assert not any(check.status == "fail" for check in found)
    assert not mlruns.exists()


def test_the_tested_versions_are_those_of_the_constraints():
    lines = (Path(__file__).parent.parent / "constraints.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", lines, re.M))
    assert {name: pins[name] for name in doctor.TESTED} == doctor.TESTED


@pytest.mark.parametrize(
    ("installed", "status"),
    [("2.13.0+cu130", "ok"), ("2.13.7", "ok"), ("2.12.0", "warn"), ("3.13.0", "warn")],
)
def test_a_package_is_compared_with_the_tested_one(monkeypatch, installed, status):
    monkeypatch.setattr(doctor, "version", lambda name: installed)
    assert doctor._package("torch", "2.13.0").status == status


def test_a_missing_package_fails_unless_it_is_optional(monkeypatch):
    def missing(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    assert doctor._package("torch", "2.13.0").status == "fail"
    assert doctor._package("ray", "2.60.0") == doctor.Check(
        "ray", "ok", "not installed (optional)", 'pip install "hpo-schedules[ray]"'
    )


def test_a_torch_that_does_not_start_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "_DEVICES", "raise OSError('libcudart.so not found')")
    check = only(doctor.devices())
    assert check.status == "fail" and "libcudart.so not found" in check.text


def test_an_unwritable_folder_fails(tmp_path):
    (tmp_path / "file").write_text("")
    check = only(doctor.writable(tmp_path / "file"))
    assert check.status == "fail" and "--mlruns" in check.hint


def test_little_room_is_warned_of(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    assert only(doctor.writable(tmp_path)).status == "warn"


def test_an_old_file_store_comes_with_the_migration_command(tmp_path):
    assert doctor.file_store(tmp_path) == []
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "meta.yaml").write_text("")
    assert "mlflow migrate-filestore" in only(doctor.file_store(tmp_path)).hint


def test_a_healthy_database_is_ok(tmp_path, newest):
    assert only(doctor.database(tmp_path)).status == "ok"
    make_database(tmp_path / "mlflow.db", newest)
    check = only(doctor.database(tmp_path))
    assert check.status == "ok" and "runs 1, experiments 1" in check.text and newest in check.text


def test_the_schema_of_another_mlflow_is_said(tmp_path, newest):
    make_database(tmp_path / "old" / "mlflow.db", health._revisions()[newest])
    old = only(doctor.database(tmp_path / "old"))
    assert old.status == "fail" and "mlflow db upgrade sqlite:////" in old.hint
    make_database(tmp_path / "new" / "mlflow.db", "ffffffffffff")
    new = only(doctor.database(tmp_path / "new"))
    assert new.status == "fail" and "newer MLflow" in new.text


def test_a_database_that_is_none_is_said(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database" * 100)
    check = only(doctor.database(tmp_path))
    assert check.status == "fail" and "cannot be read" in check.text


def test_a_moved_folder_is_said(tmp_path, newest):
    make_database(tmp_path / "mlflow.db", newest, place=tmp_path.parent / "before" / "artifacts")
    check = only(doctor.database(tmp_path))
    assert check.status == "warn" and "digits" in check.text and "moved" in check.hint


def test_a_ray_cluster_that_is_named_must_answer(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert doctor.ray() == []
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{port}")
        assert only(doctor.ray()).status == "ok"
    assert only(doctor.ray()).status == "fail"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert only(doctor.ray()).status == "ok"


def test_studies_left_open_and_events_left_behind_are_found(tmp_path):
    assert only(doctor.studies(tmp_path)).status == "ok"
    folder = make_study(tmp_path, cursor_at=3)
    (folder / "driver.json").write_text(json.dumps({"pid": 1, "host": "here"}))
    killed, behind = doctor.studies(tmp_path)
    assert "hpo run --resume --name quick" in killed.hint
    assert behind.text == "MLflow has not received its last events"


def test_a_running_study_is_no_trouble(tmp_path):
    folder = make_study(tmp_path, cursor_at=0)
    guard = lock(folder, "quick")
    check = only(doctor.studies(tmp_path))
    guard.release()
    assert check.status == "ok" and f"pid {os.getpid()}" in check.text


def test_missing_images_say_how_to_get_them(monkeypatch, tmp_path):
    from objectives.data import fashion_mnist

    monkeypatch.setattr(fashion_mnist, "places", lambda: [tmp_path])
    check = only(doctor.fashion_mnist())
    assert check.status == "warn" and "make data" in check.hint


def test_a_look_that_breaks_is_a_finding(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("no such device")

    found = doctor._safely("devices", broken)
    assert found == [
        doctor.Check("devices", "warn", "could not be looked at: RuntimeError: no such device")
    ]


@pytest.mark.parametrize(
    ("given", "named", "status", "said"),
    [
        (None, "", None, ""),
        ("http://me:secret@127.0.0.1:9", "", "fail", "http://me:***@127.0.0.1:9 does not answer"),
        (None, "http://127.0.0.1:9", "fail", "http://127.0.0.1:9 does not answer"),
        (None, "mlruns", "fail", "MLFLOW_TRACKING_URI: tracking address 'mlruns'"),
        ("postgresql://me:secret@host/db", "", "ok", "postgresql://me:***@host/db: no server"),
    ],
)
def test_the_place_named_for_runs_is_looked_at(given, named, status, said, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    found = doctor.tracking(given)
    assert [check.status for check in found] == ([status] if status else [])
    assert all(said in check.text and (check.hint or status == "ok") for check in found)


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [("2.9.1", "warn", "MLflow 2.9.1"), ("3.0.0", "ok", "MLflow 3.0.0"), ("", "ok", "not tell")],
)
def test_a_server_much_older_than_the_client_is_doubtful(version, status, said, monkeypatch):
    monkeypatch.setattr(doctor, "ask", lambda uri: Answer(version))
    check = only(doctor.tracking("http://host:5000"))
    assert check.status == status and said in check.text
