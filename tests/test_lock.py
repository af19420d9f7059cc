"""One driver for one study, whoever dies: the lock of a folder, the lease of a database."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from studies import X, opened, resume, run, spec, table, until

from hpo.errors import Conflict, HpoError, exit_code
from hpo.launch import launch
from hpo.lock import LEASE_SECONDS, KeptLease, Lease, holder, lock
from hpo.patience import Unreachable
from hpo.preparation import Launch

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]

HOLD = """
import sys, time
from pathlib import Path
from hpo.lock import lock
held = lock(Path(sys.argv[1]), "s")
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def another_driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# -- the lock of a folder -------------------------------------------------------------------------


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with another_driver(tmp_path) as driver:
        with pytest.raises(Conflict) as caught:
            lock(tmp_path, "s")
        assert f"(pid {driver.pid} on {socket.gethostname()})" in str(caught.value)
        assert "hpo stop s" in str(caught.value)
        assert exit_code(caught.value) == 6
        assert holder(tmp_path) == {"pid": driver.pid, "host": socket.gethostname()}


def test_a_second_driver_in_the_same_process_is_refused(tmp_path: Path) -> None:
    held = lock(tmp_path, "s")
    with pytest.raises(Conflict):
        lock(tmp_path, "s")
    held.release()
    lock(tmp_path, "s").release()


def test_the_lock_of_a_killed_driver_is_free(tmp_path: Path) -> None:
    with another_driver(tmp_path) as driver:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert (tmp_path / "driver.json").exists()
        assert holder(tmp_path) is None
        lock(tmp_path, "s").release()
    assert holder(tmp_path) is None


def test_looking_who_drives_does_not_disturb_the_driver(tmp_path: Path) -> None:
    with another_driver(tmp_path) as driver:
        (tmp_path / "driver.json").write_text("damaged")
        assert holder(tmp_path) == {}
        assert driver.poll() is None


def test_a_refused_launch_changes_nothing_of_the_running_study(mlruns: Path) -> None:
    study = opened(mlruns, trials=4)
    stored = study.folder.spec.read_text()
    study.folder.stop_request.write_text("finish")
    with pytest.raises(Conflict):
        resume(mlruns, trials=99)
    assert study.folder.spec.read_text() == stored
    assert study.folder.stop_request.exists()
    study.close()


def test_a_study_that_cannot_start_frees_its_lock(mlruns: Path) -> None:
    result = run(mlruns, trials=1)
    damaged = result.folder.journal.read_text().replace('"op_code"', '"op"', 1)
    result.folder.journal.write_text(damaged)
    for _ in range(2):
        with pytest.raises(HpoError, match="damaged"):
            resume(mlruns, trials=2)


# -- the lease of a database ----------------------------------------------------------------------


class Attributes:
    """The user attributes of a study in a database."""

    def __init__(self, **driver: Any) -> None:
        self.user_attrs: dict[str, Any] = {"hpo:driver": driver} if driver else {}

    def set_user_attr(self, key: str, value: Any) -> None:
        self.user_attrs[key] = json.loads(json.dumps(value))


HERE = socket.gethostname()


@pytest.fixture
def live_pid() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lease_is_refused_while_its_holder_lives(live_pid: int) -> None:
    study = Attributes(pid=live_pid, host=HERE, until=time.time() + 20)
    with pytest.raises(Conflict, match=f"pid {live_pid} on {HERE}"):
        Lease(study, "s")


def test_a_lease_of_another_machine_is_refused_until_it_has_run_out(dead_pid: int) -> None:
    study = Attributes(pid=dead_pid, host="elsewhere", until=time.time() + 20)
    with pytest.raises(Conflict, match="elsewhere"):
        Lease(study, "s")
    study.user_attrs["hpo:driver"]["until"] = time.time() - 1
    Lease(study, "s").release()


def test_a_lease_whose_holder_is_dead_is_taken_over(dead_pid: int) -> None:
    study = Attributes(pid=dead_pid, host=HERE, until=time.time() + 20)
    Lease(study, "s")
    assert study.user_attrs["hpo:driver"]["pid"] == os.getpid()


def test_a_lease_that_has_run_out_is_taken_over_and_its_old_holder_notices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("hpo.lock.time.time", lambda: now)
    study = Attributes()
    suspended = Lease(study, "s")
    now += LEASE_SECONDS + 1
    successor = Lease(study, "s")
    with pytest.raises(Conflict):
        suspended.renew()
    suspended.release()
    now += LEASE_SECONDS / 2
    successor.renew()
    assert study.user_attrs["hpo:driver"]["until"] == now + LEASE_SECONDS
    successor.release()
    assert not study.user_attrs["hpo:driver"]


def test_a_lease_is_not_written_more_often_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("hpo.lock.time.time", lambda: now)
    study = Attributes()
    lease = Lease(study, "s")
    for _ in range(9):
        now += 1
        lease.renew()
    assert study.user_attrs["hpo:driver"]["until"] == 1000 + LEASE_SECONDS


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds after which a lease runs out unless it is renewed."""
    monkeypatch.setattr("hpo.lock.LEASE_SECONDS", 0.6)
    return 0.6


def test_a_kept_lease_lasts_while_its_driver_is_busy(short_lease: float) -> None:
    study = Attributes()
    lease = KeptLease(study, "s")
    first = study.user_attrs["hpo:driver"]["until"]
    until(lambda: study.user_attrs["hpo:driver"]["until"] > first + 2 * short_lease)
    lease.renew()
    lease.release()
    assert not study.user_attrs["hpo:driver"]


def test_the_driver_hears_from_its_kept_lease_that_another_has_it(short_lease: float) -> None:
    study = Attributes()
    lease = KeptLease(study, "s")
    study.user_attrs["hpo:driver"] = {"pid": 1, "host": "elsewhere", "token": "other"}

    def refused() -> bool:
        try:
            lease.renew()
        except Conflict as taken:
            return "pid 1 on elsewhere" in str(taken)
        return False

    until(refused)
    lease.release()
    assert study.user_attrs["hpo:driver"]["token"] == "other"


def test_a_kept_lease_goes_on_when_the_database_is_back(short_lease: float) -> None:
    class Away(Attributes):
        away = 0

        def set_user_attr(self, key: str, value: Any) -> None:
            if 0 < self.away < 5:
                self.away += 1
                raise Unreachable("connection refused")
            super().set_user_attr(key, value)

    study = Away()
    lease = KeptLease(study, "s")
    first, study.away = study.user_attrs["hpo:driver"]["until"], 1
    until(lambda: study.user_attrs["hpo:driver"]["until"] > first)
    assert study.away == 5
    lease.renew()
    lease.release()


# -- a ledger in a database -----------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def test_a_study_in_a_database_runs_and_resumes_to_the_same_table(mlruns: Path, url: str) -> None:
    whole = run(mlruns, name="whole", trials=6)
    run(mlruns, name="parts", trials=3, storage=url)
    result = resume(mlruns, "parts", trials=6)
    assert table(result) == table(whole)
    assert not result.folder.journal.exists()


def test_a_study_in_a_database_has_one_driver_too(mlruns: Path, url: str, live_pid: int) -> None:
    run(mlruns, trials=1, storage=url)
    study = opened(mlruns, trials=1, storage=url)
    assert holder(study.folder.path) is not None  # so that hpo stop finds it
    with pytest.raises(Conflict):
        resume(mlruns, trials=2)
    study.close()
    held = {"pid": live_pid, "host": HERE, "until": time.time() + 20}
    study.optuna.set_user_attr("hpo:driver", held)
    with pytest.raises(Conflict, match=f"pid {live_pid}"):
        resume(mlruns, trials=2)
    study.optuna.set_user_attr("hpo:driver", {**held, "pid": 2**22 + 1})
    assert len(resume(mlruns, trials=2).records) == 2


def test_a_name_that_the_database_knows_from_another_folder_is_refused(
    tmp_path: Path, url: str
) -> None:
    run(tmp_path / "a", trials=1, storage=url)
    with pytest.raises(Conflict, match="study s exists in sqlite:///"):
        run(tmp_path / "b", trials=1, storage=url)
    assert not (tmp_path / "b" / "studies" / "s" / "spec.yaml").exists()
    assert len(resume(tmp_path / "a", trials=2).records) == 2


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "storage nonsense: "),
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
        ("postgresql://me:secret@localhost/x", r"storage postgresql://me:\*\*\*@localhost/x: "),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(
    mlruns: Path, address: str, message: str
) -> None:
    with pytest.raises(HpoError, match=message) as caught:
        launch(spec(space=X, storage=address), Launch(mlruns))
    assert "secret" not in str(caught.value)


def test_a_study_in_a_database_is_kept_through_a_step_that_takes_long(
    mlruns: Path, url: str, short_lease: float
) -> None:
    study = opened(mlruns, trials=1, storage=url)  # and the driver does nothing more

    def held_until() -> float:
        return float(study.optuna.user_attrs["hpo:driver"]["until"])

    first = held_until()
    until(lambda: held_until() > first + 2 * short_lease)
    study.close()


def test_a_database_in_a_file_is_written_ahead(mlruns: Path, url: str) -> None:
    run(mlruns, trials=1, storage=url)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_driver_killed_in_the_middle_of_a_database_study_is_succeeded(
    mlruns: Path, url: str, marks: Path
) -> None:
    described = spec(
        "slow", name="s", trials=2, storage=url, space=X, objective_options={"folder": str(marks)}
    )
    script = (
        "import sys, json; from pathlib import Path; from hpo.launch import launch;"
        "from hpo.preparation import Launch, spec_from_keywords;"
        "launch(spec_from_keywords(**json.loads(sys.argv[1])), Launch(Path(sys.argv[2])))"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(described.plain()), str(mlruns)]
    )
    until(lambda: list(marks.glob("running-*")))
    driver.kill()
    driver.wait()
    (marks / "go").touch()
    result = resume(mlruns)
    assert [r.state for r in result.records] == ["complete", "complete"]
