"""A ledger's database that fails in the middle of an operation: what was done is done once."""

import random
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import ProgrammingError
from studies import opened, resume, run, table

from hpo import engines
from hpo.engines import Slots
from hpo.errors import Conflict, Unavailable, exit_code
from hpo.interrupts import Interrupts
from hpo.patience import Patient, Unreachable, Waiting

pytestmark = pytest.mark.usefixtures("quick")

MEDIAN = {"median": {"startup_trials": 1, "warmup_steps": 0}}


class Flaky:
    """Stands for a database that fails `failures` times, before or after it did what was asked."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def get_study_name_from_id(self, study_id: int) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise Unreachable("connection refused")
        return f"study {study_id}"


def patient(storage: Any, **waiting: Any) -> Any:
    return Patient(storage, create_engine("sqlite://"), "sqlite://", Waiting(**waiting))


def test_an_interrupt_that_comes_as_the_database_returns_is_not_lost() -> None:
    class Returning(Flaky):
        def get_study_name_from_id(self, study_id: int) -> str:
            if self.calls == self.failures:
                signal.raise_signal(signal.SIGINT)
            return super().get_study_name_from_id(study_id)

    with Interrupts() as interrupts:
        assert patient(Returning(1), seconds=60).get_study_name_from_id(3) == "study 3"
        assert interrupts.count == 1


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries take no time."""
    monkeypatch.setattr("hpo.patience._PAUSES", (0.0,))


@pytest.mark.usefixtures("at_once")
def test_an_operation_is_tried_until_the_database_is_back_and_the_user_told_once() -> None:
    warnings: list[str] = []
    storage = patient(Flaky(5), seconds=60, warn=warnings.append)
    assert storage.get_study_name_from_id(3) == "study 3"
    (told,) = warnings
    assert "unreachable since" in told and "(connection refused)" in told
    assert "up to 60s, nothing is lost" in told


def test_a_connection_that_has_merely_grown_old_is_not_worth_a_word() -> None:
    warnings: list[str] = []
    storage = patient(Flaky(1), seconds=60, warn=warnings.append)
    assert storage.get_study_name_from_id(3) == "study 3"
    assert not warnings


@pytest.mark.usefixtures("at_once")
def test_after_the_time_limit_every_operation_fails_at_once_with_the_way_to_go_on() -> None:
    flaky = Flaky(10**9)
    storage = patient(flaky, seconds=0.02, warn=lambda text: None)
    with pytest.raises(Unavailable, match=r"unreachable since .*: connection refused") as caught:
        storage.get_study_name_from_id(3)
    assert "hpo run --resume" in caught.value.hint and exit_code(caught.value) == 5
    calls = flaky.calls
    with pytest.raises(Unavailable):
        storage.get_study_name_from_id(3)
    assert flaky.calls == calls


def test_who_only_reads_does_not_wait() -> None:
    flaky = Flaky(10**9)
    with pytest.raises(Unavailable, match="storage sqlite://: connection refused"):
        patient(flaky).get_study_name_from_id(3)
    assert flaky.calls == 1


def test_nothing_is_repeated_if_another_driver_has_taken_over_meanwhile() -> None:
    def taken() -> None:
        raise Conflict("another driver")

    flaky = Flaky(1)
    storage = patient(flaky, seconds=60)
    storage.returns = taken
    with pytest.raises(Conflict):
        storage.get_study_name_from_id(3)
    assert flaky.calls == 1


def test_a_request_to_stop_ends_the_waiting() -> None:
    storage = patient(Flaky(10**9), seconds=60, warn=lambda text: None, stops=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        storage.get_study_name_from_id(3)
    with pytest.raises(Unavailable):
        storage.get_study_name_from_id(3)


def test_what_a_database_was_wrongly_asked_for_is_no_outage() -> None:
    engine = create_engine("sqlite://")
    Patient(Flaky(0), engine, "sqlite://", Waiting())  # type: ignore[arg-type]
    with engine.connect() as connection, pytest.raises(ProgrammingError):
        connection.exec_driver_sql("select ?", (1, 2))
    with engine.connect() as connection, pytest.raises(Unreachable, match="no such table"):
        connection.exec_driver_sql("select * from absent")
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["undone", "done"])
@pytest.mark.usefixtures("at_once")
def test_whatever_write_is_lost_the_study_comes_out_the_same(mlruns: Path, after: bool) -> None:
    url = f"sqlite:///{mlruns.parent}/ledger.db"
    about: dict[str, Any] = {"trials": 12, "sampler": "tpe", "prune": MEDIAN}
    whole = run(mlruns, name="whole", **about)
    study = opened(mlruns, name="lossy", storage=url, **about)
    dialect = study.optuna._storage._engine.dialect
    commit, dice, lost = dialect.do_commit, random.Random(1), 0

    def lossy(connection: Any) -> None:
        nonlocal lost
        if dice.random() > 0.25:
            commit(connection)
            return
        lost += 1
        if after:
            commit(connection)
        raise sqlite3.OperationalError("the connection was lost")

    dialect.do_commit = lossy
    engines.load("optuna").run(study, Slots(0))
    dialect.do_commit = commit
    study.close()
    assert lost > 30
    assert table(resume(mlruns, "lossy")) == table(whole)
