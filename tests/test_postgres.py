"""A ledger on a real PostgreSQL server, which is stopped and killed while studies use it."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import postgres
import pytest
from postgres import PASSWORD, Server
from shell import Ended, hpo, process
from shell import start as begin
from studies import OBJECTIVES, X, events, opened, outcomes, resume, run, spec, table, until

from hpo.errors import Conflict, HpoError, Unavailable
from hpo.launch import launch
from hpo.preparation import Launch
from hpo.result import open_study
from hpo.trial import Outcome

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    with postgres.running() as server:
        yield server


@pytest.fixture
def server(started: Server) -> Server:
    """A running server whose database is empty."""
    started.start()
    started.empty()
    return started


def command(mlruns: Path, server: Server, objective: str, **options: Any) -> list[str]:
    """The arguments of `hpo run` for a study of a toy objective on the server."""
    given: dict[str, Any] = {"trials": 4, "workers": 1, "sampler": "tpe", **options}
    told = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    return [
        *("run", "--name", "s", "--objective", f"{OBJECTIVES}:{objective}", "--no-mlflow"),
        *("--mlruns", str(mlruns), "--storage", server.url, "--set", f"space={json.dumps(X)}"),
        *told,
    ]


def marked(marks: Path) -> tuple[str, str]:
    return "--set", f"objective_options.folder={marks}"


# -- a study like any other -----------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_study_gives_the_table_that_it_gives_with_a_file(mlruns: Path, server: Server) -> None:
    about: dict[str, Any] = {"sampler": "tpe", "prune": "median", "trials": 14}
    in_file = run(mlruns, name="file", **about)
    run(mlruns, name="server", storage=server.url, **{**about, "trials": 5})
    on_server = resume(mlruns, "server", trials=14)
    assert table(on_server) == table(in_file)
    assert not on_server.folder.journal.exists()


def test_a_driver_killed_in_the_middle_is_succeeded_and_no_password_is_told(
    mlruns: Path, server: Server, marks: Path
) -> None:
    driver = begin(*command(mlruns, server, "slow"), *marked(marks))
    until(lambda: list(marks.glob("running-*")))
    driver.kill()
    said = "".join(driver.communicate())
    (marks / "go").touch()
    ended = process("run", "--resume", "--name", "s", "--mlruns", mlruns)
    assert ended.code == 0, ended.err
    shown, listed = (hpo(*words, "--mlruns", mlruns) for words in (("show", "s"), ("list",)))
    assert "4 of 4" in shown.both or "4 complete" in shown.both, shown.both
    assert "finished" in listed.out
    assert outcomes(open_study("s", mlruns)) == ["complete"] * 4
    assert PASSWORD not in said + ended.out + ended.err + shown.both + listed.both
    stored = mlruns / "studies" / "s" / "spec.yaml"
    assert stored.stat().st_mode & 0o077 == 0  # the one place: it is needed to continue
    files = [path for path in mlruns.rglob("*") if path.is_file() and path != stored]
    assert files and not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def test_a_password_may_lie_in_the_environment_alone(
    mlruns: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    result = run(mlruns, trials=2, storage=server.url.replace(f":{PASSWORD}@", "@"))
    assert outcomes(result) == ["complete"] * 2
    assert PASSWORD not in result.folder.spec.read_text()


def test_a_wrong_password_is_refused_and_masked(mlruns: Path, server: Server) -> None:
    address = server.url.replace(PASSWORD, "wrong-word")
    with pytest.raises(HpoError, match="password authentication failed") as caught:
        run(mlruns, storage=address)
    assert "wrong-word" not in str(caught.value)


# -- one driver -----------------------------------------------------------------------------------


def test_a_second_driver_is_refused_from_wherever_it_comes(
    tmp_path: Path, mlruns: Path, server: Server, marks: Path
) -> None:
    driver = begin(*command(mlruns, server, "slow"), *marked(marks))
    until(lambda: list(marks.glob("running-*")))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(mlruns, elsewhere)  # as another machine sees the folder, without its lock
    with pytest.raises(Conflict, match=f"pid {driver.pid} on"):
        resume(elsewhere)
    driver.kill()
    driver.communicate()
    (marks / "go").touch()
    assert outcomes(resume(elsewhere)) == ["complete"] * 4


# -- a server that goes away ----------------------------------------------------------------------


def through_an_outage(
    mlruns: Path, server: Server, marks: Path, away: Callable[[Path], Any]
) -> Ended:
    """A study whose server is stopped as its first trials run, and started again after `away`."""
    log = mlruns.parent / "stderr"
    with log.open("w") as stderr:
        driver = begin(*command(mlruns, server, "slow", workers=2), *marked(marks), stderr=stderr)
        until(lambda: len(list(marks.glob("running-*"))) == 2)
        server.stop()
        (marks / "go").touch()
        away(log)
        assert driver.poll() is None
        server.start()
        out, _ = driver.communicate(timeout=60)
    return Ended(driver.returncode, out, log.read_text(), "")


def check_nothing_happened(mlruns: Path, ended: Ended) -> None:
    assert ended.code == 0, ended.err
    assert ended.err.count("the ledger has been unreachable since") == 1
    assert "nothing is lost" in ended.err and PASSWORD not in ended.err
    result = open_study("s", mlruns)
    assert [r.number for r in result.records] == [0, 1, 2, 3]
    assert outcomes(result) == ["complete"] * 4
    assert not any(r.attempts for r in result.records)
    assert sorted(event["trial"] for event in events(result, "end")) == [0, 1, 2, 3]


def test_a_study_outlives_an_outage_and_says_so_once(
    mlruns: Path, server: Server, marks: Path
) -> None:
    def told(log: Path) -> None:
        until(lambda: "unreachable since" in log.read_text())

    check_nothing_happened(mlruns, through_an_outage(mlruns, server, marks, told))


@pytest.mark.slow
def test_a_study_outlives_a_minute_without_its_ledger(
    mlruns: Path, server: Server, marks: Path
) -> None:
    ended = through_an_outage(mlruns, server, marks, lambda log: time.sleep(61))
    check_nothing_happened(mlruns, ended)


@pytest.mark.usefixtures("quick")
def test_a_server_that_crashes_between_two_trials_goes_unnoticed(
    mlruns: Path, server: Server
) -> None:
    def crash(event: Mapping[str, Any]) -> None:
        if event["event"] == "end":
            server.kill()
            server.start()

    about: dict[str, Any] = {"trials": 4, "sampler": "tpe"}
    whole = run(mlruns, name="whole", **about)
    crashed = launch(spec(storage=server.url, **about), Launch(mlruns, sinks=(crash,), warn=fail))
    assert table(crashed) == table(whole)


def fail(text: str) -> None:
    raise AssertionError(text)


def stopping(server: Server) -> Callable[[Mapping[str, Any]], None]:
    """A listener that stops the server as the third trial begins."""

    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "start" and event["trial"] == 2:
            server.stop()

    return stop


@pytest.mark.usefixtures("quick")
def test_after_too_long_an_outage_the_study_ends_and_can_be_resumed(
    mlruns: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.patience.PATIENCE", 1.0)
    whole = run(mlruns, name="whole", trials=6)
    warnings: list[str] = []
    how = Launch(mlruns, sinks=(stopping(server),), warn=warnings.append)
    with pytest.raises(Unavailable, match="unreachable since") as caught:
        launch(spec(storage=server.url, trials=6), how)
    assert "hpo run --resume" in caught.value.hint and PASSWORD not in str(caught.value)
    assert len(warnings) == 1
    with pytest.raises(HpoError, match="Connection refused"):
        resume(mlruns)
    with pytest.raises(HpoError, match="Connection refused") as caught:
        open_study("s", mlruns)
    assert "is its server running" in caught.value.hint
    listed = hpo("list", "--mlruns", mlruns)
    assert "whole" in listed.out and "unreadable: storage" in listed.out
    assert PASSWORD not in str(caught.value) + listed.both
    server.start()
    assert table(resume(mlruns)) == table(whole)


@pytest.mark.usefixtures("quick")
def test_ctrl_c_ends_the_waiting(mlruns: Path, server: Server) -> None:
    def interrupt(text: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def taken(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, taken)
    try:
        with pytest.raises((Unavailable, KeyboardInterrupt)):
            launch(spec(storage=server.url), Launch(mlruns, (), (stopping(server),), interrupt))
    finally:
        signal.signal(signal.SIGINT, before)
    server.start()
    assert outcomes(resume(mlruns)) == ["complete"] * 4


@pytest.mark.usefixtures("quick")
def test_a_lease_outlives_the_outage_of_its_ledger(
    mlruns: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.lock.LEASE_SECONDS", 0.5)
    study = opened(mlruns, "value", space=X, trials=1, storage=server.url)
    assert study.ask() is not None
    server.stop()
    until(lambda: time.time() > study._guards[-1]._lease._renewed + 0.5)  # type: ignore[attr-defined]
    server.start()
    study.tell(0, Outcome("failed", "error", "over"))
    study.tick()
    study.close()
    assert [r.state for r in open_study("s", mlruns).records] == ["failed"]
