"""MLflow gets every event once, whatever dies or is away in between, and the driver never waits."""

import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import HpoError
from hpo.spool import Spool
from hpo.tracking import Tracker, batch, default_uri, old_file_store, parcel, resolve_uri, tracker
from hpo.tracking import store as stores
from hpo.tracking.cursor import fingerprint
from hpo.tracking.trouble import explain

BEGAN = 1_700_000_000_000

# A thread ended by SystemExit is silent; pytest would report it all the same.
DIES = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@dataclass
class Place:
    """A folder with the database, the artifacts and one study, as the driver has them."""

    root: Path

    @property
    def uri(self):
        return default_uri(self.root)

    def __post_init__(self):
        self.folder = self.root / "studies" / "quick"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "spec.yaml").write_text("name: quick\n")
        self.spool = Spool(self.folder / "events.jsonl")
        self.told = []
        self.clock = BEGAN

    def say(self, event, **data):
        self.clock += 10
        self.spool.append({"event": event, "time": self.clock, **data})

    def study(self, **params):
        params = {"minimize": "val_loss", **params}
        spec = [str(self.folder / "spec.yaml"), "/gone/schedule.json"]
        about = {"study": "quick", "key": "a1-b2", "experiment": "digits", "artifacts": spec}
        self.say("study", **about, params=params, tags={"hpo.sampler": "tpe"})

    def start(self, trial, attempt=0, **params):
        self.say("start", trial=trial, attempt=attempt, params=params, tags={"hpo.seed": "7"})

    def measure(self, trial, step, value, attempt=0, **point):
        metrics = {"val_loss": value, "train_loss": value / 2}
        at = {"trial": trial, "attempt": attempt, "step": step}
        self.say("measurement", **at, metrics=metrics, point=point)

    def end(self, trial, outcome="complete", attempt=0, reason="", **metrics):
        tags = {"hpo.worker": "here"}
        about = {"trial": trial, "attempt": attempt, "outcome": outcome, "reason": reason}
        self.say("end", **about, metrics=metrics, tags=tags)

    def trial(self, number, value, outcome="complete", steps=3):
        self.start(number, dropout=0.1 * number)
        for step in range(steps):
            self.measure(number, step * 10, value + 1 / (1 + step), dropout=step / 10)
        self.end(number, outcome, **{"best/val_loss": value})
        if outcome == "complete":
            self.say("best", trial=number, step=number, value=value)

    def close(self, best, ranks, status="finished"):
        about = {"ranks": ranks, "tags": {}, "artifacts": [str(self.folder / "spec.yaml")]}
        self.say("close", status=status, best=best, **about)

    def tracker(self, uri=None):
        cursor = self.folder / "cursor.json"
        made = Tracker(
            self.spool, uri or self.uri, self.root / "artifacts", cursor, self.told.append
        )
        return made

    def deliver(self, timeout=60, uri=None):
        running = self.tracker(uri)
        running.start()
        return running.close(timeout)

    def client(self, uri=None):
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=uri or self.uri)

    def runs(self, uri=None):
        """Everything MLflow shows of the study: {run name: facts}, ids left out."""
        client = self.client(uri)
        experiment = client.get_experiment_by_name("digits")
        found = client.search_runs([experiment.experiment_id], max_results=1000)
        names = {run.info.run_id: run.info.run_name for run in found}
        assert len(set(names.values())) == len(names), "a run is there twice"
        return {run.info.run_name: facts(client, run, names) for run in found}


def facts(client, run, names):
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("hpo.")}
    tags.pop("hpo.generation", None)  # how often the study's run was replaced, of no concern
    history = {
        key: [
            (point.step, point.timestamp, "nan" if math.isnan(point.value) else point.value)
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        for key in run.data.metrics
    }
    return {
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": dict(run.data.params),
        "tags": tags,
        "parent": names.get(run.data.tags.get("mlflow.parentRunId")),
        "metrics": {key: sorted(points, key=str) for key, points in history.items()},
        "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
    }


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A fresh MLflow database: making one takes seconds."""
    place = Place(tmp_path_factory.mktemp("template"))
    place.deliver()
    place.study()
    stores.settings()
    stores.Store(place.uri, place.root / "artifacts")
    return place.root / "mlflow.db"


@pytest.fixture
def place(tmp_path, database, monkeypatch):
    monkeypatch.setattr(tracker, "_PERIOD", 0.02)
    shutil.copy(database, tmp_path / "mlflow.db")
    return Place(tmp_path)


def whole_study(place):
    place.study()
    place.trial(0, 0.5)
    place.trial(1, 0.4, "pruned")
    place.trial(2, 0.3)
    place.close(2, {2: 1, 0: 2})


# -- what a user sees ----------------------------------------------------------------------------


def test_the_layout_is_one_run_for_the_study_and_one_for_each_attempt(place):
    whole_study(place)
    delivery = place.deliver()
    assert (delivery.delivered, delivery.pending, delivery.error) == (19, 0, "")
    runs = place.runs()
    assert set(runs) == {"quick", "trial 0", "trial 1", "trial 2"}
    study, trial = runs["quick"], runs["trial 2"]
    assert study["status"] == "FINISHED" and study["artifacts"] == ["spec.yaml"]
    assert study["params"] == {"minimize": "val_loss"}
    assert study["tags"].items() >= {"hpo.sampler": "tpe", "hpo.study": "quick"}.items()
    assert [point[::2] for point in study["metrics"]["best/val_loss"]] == [(0, 0.5), (2, 0.3)]
    assert trial["parent"] == "quick" and trial["params"] == {"dropout": "0.2"}
    assert trial["times"] == (BEGAN + 130, BEGAN + 170)
    assert [point[::2] for point in trial["metrics"]["h/dropout"]] == [
        (0, 0.0),
        (10, 0.1),
        (20, 0.2),
    ]
    assert (
        trial["tags"].items() >= {"hpo.rank": "1", "hpo.worker": "here", "hpo.trial": "2"}.items()
    )
    assert {
        name: run["tags"].get("hpo.outcome") for name, run in runs.items() if name != "quick"
    } == {
        "trial 0": "complete",
        "trial 1": "pruned",
        "trial 2": "complete",
    }
    assert runs["trial 1"]["status"] == "KILLED"
    experiment = place.client().get_experiment_by_name("digits")
    assert experiment.artifact_location == (place.root / "artifacts").as_uri()


def test_the_study_carries_the_curves_of_its_best_trial(place):
    whole_study(place)
    place.deliver()
    runs = place.runs()
    for name in ("val_loss", "train_loss", "h/dropout"):
        assert runs["quick"]["metrics"][name] == runs["trial 2"]["metrics"][name]


def test_children_are_found_without_their_parent(place):
    whole_study(place)
    place.deliver()
    found = place.client().search_runs(
        ["1"], "tags.\"hpo.study\" = 'quick' and tags.`hpo.rank` = '1'"
    )
    assert [run.info.run_name for run in found] == ["trial 2"]


def test_a_failed_trial_says_why(place):
    place.study()
    place.start(0)
    place.say("end", trial=0, attempt=0, outcome="failed", reason="oom", message="out of memory")
    place.close(None, {}, "failed")
    place.deliver()
    runs = place.runs()
    assert runs["trial 0"]["status"] == runs["quick"]["status"] == "FAILED"
    said = {"hpo.reason": "oom", "hpo.message": "out of memory"}
    assert runs["trial 0"]["tags"].items() >= said.items()


def test_a_restart_is_a_run_of_its_own_and_a_continued_attempt_is_not(place):
    place.study()
    place.start(0)
    for step in (0, 10, 20):
        place.measure(0, step, 1.0 + step)
    place.deliver()
    for step in (10, 20, 30):  # from the checkpoint at step 0
        place.measure(0, step, 1.0 + step)
    place.end(0, "failed", reason="lost")
    place.start(0, attempt=1)
    place.measure(0, 0, 5.0, attempt=1)
    place.end(0, attempt=1)
    place.close(0, {0: 1})
    place.deliver()
    runs = place.runs()
    assert [point[0] for point in runs["trial 0"]["metrics"]["val_loss"]] == [0, 10, 20, 30]
    assert [point[2] for point in runs["trial 0 attempt 1"]["metrics"]["val_loss"]] == [5.0]
    assert [point[2] for point in runs["quick"]["metrics"]["val_loss"]] == [5.0]
    assert "hpo.rank" in runs["trial 0 attempt 1"]["tags"]
    assert "hpo.rank" not in runs["trial 0"]["tags"]


def test_vectors_become_one_metric_for_each_entry_and_text_none(place):
    place.study()
    place.start(0, **{"l2[3]": 1e-4, "dropout@0.5": 0.2})
    place.measure(0, 0, 1.0, l2=(0.1, 0.2), optimizer="sgd", on=True)
    place.end(0)
    place.deliver()
    trial = place.runs()["trial 0"]
    assert {key for key in trial["metrics"] if key.startswith("h/")} == {"h/l2/0", "h/l2/1", "h/on"}
    assert trial["params"] == {"l2/3": "0.0001", "dropout/at_0.5": "0.2"}


def test_not_a_number_and_infinity_do_not_flatten_the_charts(place):
    place.study()
    place.start(0)
    place.measure(0, 0, math.nan)
    place.measure(0, 1, math.inf)
    place.measure(0, 2, 0.5)
    place.end(0, "failed", reason="nan")
    assert place.deliver().error == ""
    values = [point[2] for point in place.runs()["trial 0"]["metrics"]["val_loss"]]
    assert values == ["nan", "nan", 0.5]


def test_long_values_are_cut_and_many_params_all_arrive(place):
    place.study(**{f"p{index}": "x" * 9000 if index == 0 else index for index in range(250)})
    assert place.deliver().error == ""
    params = place.runs()["quick"]["params"]
    assert len(params) == 251 and len(params["p0"]) == 6000


# -- resuming ------------------------------------------------------------------------------------


def test_a_stopped_study_is_taken_up_again(place):
    place.study(trials=2)
    place.trial(0, 0.5)
    place.start(1)
    place.measure(1, 0, 0.9)
    place.close(0, {0: 1}, "stopped")
    place.deliver()
    runs = place.runs()
    assert (runs["quick"]["status"], runs["trial 1"]["status"]) == ("KILLED", "KILLED")
    assert runs["trial 1"]["tags"]["hpo.outcome"] == "interrupted"
    place.study(trials=9)
    place.measure(1, 10, 0.8)
    place.deliver()
    runs = place.runs()
    assert (runs["quick"]["status"], runs["trial 1"]["status"]) == ("RUNNING", "RUNNING")
    assert runs["quick"]["tags"]["hpo.resumed_with"] == "trials=9"
    place.end(1)
    place.close(0, {0: 1, 1: 2})
    place.deliver()
    runs = place.runs()
    assert (runs["quick"]["status"], runs["trial 1"]["status"]) == ("FINISHED", "FINISHED")
    assert runs["trial 1"]["tags"]["hpo.outcome"] == "complete"
    assert runs["quick"]["params"]["trials"] == "2"
    assert [point[0] for point in runs["trial 1"]["metrics"]["val_loss"]] == [0, 10]


def test_curves_of_an_old_best_do_not_mix_with_those_of_a_new_one(place):
    whole_study(place)
    place.deliver()
    before = place.runs()
    place.study()
    place.trial(3, 0.1, steps=5)
    place.close(3, {3: 1, 2: 2})
    place.deliver()
    runs = place.runs()
    assert set(runs) == set(before) | {"trial 3"}
    for name in ("val_loss", "train_loss", "h/dropout"):
        assert runs["quick"]["metrics"][name] == runs["trial 3"]["metrics"][name]
    assert {run["parent"] for name, run in runs.items() if name != "quick"} == {"quick"}
    assert [point[0] for point in runs["quick"]["metrics"]["best/val_loss"]] == [0, 2, 3]
    assert runs["quick"]["artifacts"] == ["spec.yaml"]
    assert runs["quick"]["params"] == before["quick"]["params"]
    assert runs["quick"]["times"][0] == before["quick"]["times"][0]


def test_ranks_are_brought_up_to_date(place):
    whole_study(place)
    place.deliver()
    place.study()
    place.close(2, {2: 1, 1: 2})
    place.deliver()
    ranks = {name: run["tags"].get("hpo.rank") for name, run in place.runs().items()}
    assert ranks == {"quick": None, "trial 0": None, "trial 1": "2", "trial 2": "1"}


# -- nothing twice, nothing lost -----------------------------------------------------------------


def test_delivering_everything_again_changes_nothing(place):
    whole_study(place)
    place.deliver()
    before = place.runs()
    (place.folder / "cursor.json").unlink()
    assert place.deliver().delivered == 19
    assert place.runs() == before


def small_study(place):
    place.study()
    place.trial(0, 0.5, steps=2)
    place.close(0, {0: 1})


def resumed_study(place):
    """A stopped study, resumed: an open trial goes on, another trial becomes the best one."""
    place.study(trials=1)
    place.trial(0, 0.5, steps=2)
    place.start(1)
    place.measure(1, 0, 0.6)
    place.close(0, {0: 1}, "stopped")
    place.study(trials=2)
    place.measure(1, 10, 0.3)
    place.end(1)
    place.close(1, {1: 1, 0: 2})


@pytest.mark.slow
@DIES
@pytest.mark.parametrize(("study", "stride"), [(small_study, 1), (resumed_study, 5)])
def test_a_death_after_any_call_to_mlflow_changes_nothing(
    place, monkeypatch, tmp_path_factory, study, stride
):
    study(place)
    place.deliver()
    wanted, real = place.runs(), stores._call
    done = survived = 0
    while True:
        done += stride
        root = tmp_path_factory.mktemp("killed")
        shutil.copytree(place.folder, root / "studies" / "quick")
        (root / "studies" / "quick" / "cursor.json").unlink()
        shutil.copy(place.root / "mlflow.db", root / "mlflow.db")
        _forget_all_runs(root / "mlflow.db")
        other, left = Place(root), [done]

        def dying(function, left=left):
            if left[0] == 0:
                raise SystemExit  # ends the thread at once, as a kill would
            left[0] -= 1
            return real(function)

        monkeypatch.setattr(stores, "_call", dying)
        died = other.deliver().pending > 0
        monkeypatch.setattr(stores, "_call", real)
        if not died:
            break
        survived += 1
        assert other.deliver().pending == 0
        assert other.runs() == wanted, f"killed after call {done}"
    assert survived >= 9


def _forget_all_runs(file):
    with sqlite3.connect(file) as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM experiments WHERE experiment_id <> 0")
    database.close()


@DIES
def test_a_death_while_one_study_run_replaces_another_leaves_one(place, monkeypatch):
    whole_study(place)
    place.deliver()
    place.study()
    place.trial(3, 0.1)
    place.close(3, {3: 1})
    real = stores.Store.discard
    monkeypatch.setattr(stores.Store, "discard", _die)
    assert place.deliver().pending > 0
    monkeypatch.setattr(stores.Store, "discard", real)
    (place.folder / "cursor.json").unlink()
    assert place.deliver().pending == 0
    runs = place.runs()
    assert set(runs) == {"quick", "trial 0", "trial 1", "trial 2", "trial 3"}
    assert runs["quick"]["metrics"]["val_loss"] == runs["trial 3"]["metrics"]["val_loss"]
    assert {run["parent"] for name, run in runs.items() if name != "quick"} == {"quick"}


def _die(*_):
    raise SystemExit


def _drive_in_a_process(root, limit=None):
    """What a driver does, in a process that may be killed; `limit` is the room on its disk."""
    tracker._PERIOD = 0.02
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    place = Place(Path(root))
    delivery = place.deliver()
    if limit is not None and not delivery.pending:
        os._exit(3)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mlflow.tracking.client", "mlflow.store.tracking.sqlalchemy_store"]
    )
    return context


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kills_at_random_moments_change_nothing(place, database, tmp_path_factory, processes):
    whole_study(place)
    place.deliver()
    wanted = place.runs()
    root = tmp_path_factory.mktemp("killed")
    shutil.copytree(place.folder, root / "studies" / "quick")
    (root / "studies" / "quick" / "cursor.json").unlink()
    shutil.copy(database, root / "mlflow.db")
    rng, kills = random.Random(0), 0
    for longest in range(1, 41):  # short at first: a quick machine must be hit as well
        process = processes.Process(target=_drive_in_a_process, args=(str(root),))
        process.start()
        process.join(rng.uniform(0.01, 0.05 * longest))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    assert kills > 0
    other = Place(root)
    assert other.deliver().pending == 0
    assert other.runs() == wanted


# -- outages -------------------------------------------------------------------------------------


def test_an_outage_is_told_once_and_everything_arrives_later(tmp_path, database, monkeypatch):
    monkeypatch.setattr(tracker, "_PERIOD", 0.01)
    root = tmp_path / "mlruns"
    place = Place(tmp_path / "elsewhere")
    root.write_text("a file where the folder should be")
    uri = default_uri(root)
    running = place.tracker(uri)
    running.start()
    whole_study(place)
    deadline = time.monotonic() + 20
    while not place.told and time.monotonic() < deadline:
        time.sleep(0.01)
    root.unlink()
    root.mkdir()
    shutil.copy(database, root / "mlflow.db")
    delivery = running.close(30)
    assert (delivery.pending, delivery.error) == (0, "")
    assert len(place.told) == 1 and "the study goes on" in place.told[0]
    assert len(place.runs(uri)) == 4


def test_a_dead_server_blocks_nothing_and_loses_nothing(place):
    running = place.tracker("http://user:secret@127.0.0.1:9")
    running.start()
    began = time.monotonic()
    whole_study(place)
    assert time.monotonic() - began < 0.5
    delivery = running.close(20)
    assert (delivery.delivered, delivery.pending) == (0, 19)
    assert delivery.error == "http://user:***@127.0.0.1:9 does not answer"
    assert not any("secret" in text for text in place.told)
    assert place.deliver().pending == 0
    assert len(place.runs()) == 4


def refusing(status, body="no"):
    said = f"failed with error code {status} != 200. Response body: '{body}'"
    return Exception(f"API request to endpoint /x {said}")


SECRET_PLACE = "http://ada:secret@host:5000"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (refusing(401), "login", "http://ada:***@host:5000 refuses this user name and password"),
        (refusing(403, "Permission denied"), "login", "lets this user not do that (403): Perm"),
        (refusing(404, "<html>"), "outage", "answers, but not as MLflow does (404)"),
        (refusing(502), "outage", "answers with an error (502)"),
        (Exception(f"API request to {SECRET_PLACE}/x failed with exception y"), "outage", "answer"),
        (
            Exception(f"API request to {SECRET_PLACE}/x failed with timeout exception: timed out"),
            "outage",
            "http://ada:***@host:5000 does not answer in time",
        ),
        (Exception(f"Invalid url: {SECRET_PLACE}/x"), "outage", "Invalid url: http://ada:***@host"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(error, kind, said):
    trouble = explain(error, SECRET_PLACE)
    assert trouble.kind == kind and said in trouble.text
    assert "secret" not in trouble.text + trouble.hint
    assert bool(trouble.hint) == (kind == "login")


def test_a_refused_login_is_told_even_after_an_outage(place, monkeypatch):
    tries = iter([refusing(502), refusing(502), refusing(401), refusing(401), refusing(502)])

    def failing(self, events):
        raise next(tries, refusing(401))

    monkeypatch.setattr(tracker, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(tracker.Sender, "send", failing)
    place.study()
    running = place.tracker("http://127.0.0.1:9")
    running.start()
    deadline = time.monotonic() + 20
    while len(place.told) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.close(20)
    assert ["(502)" in text for text in place.told] == [True, False]
    assert "(401)" in place.told[1] and "MLFLOW_TRACKING_USERNAME" in place.told[1]


def test_a_day_without_a_server_ends_no_tracker(place):
    waiting = place.tracker()
    pauses = []
    for failures in (1, 2, 3, 5000):
        waiting._failures = failures
        pauses.append(waiting._pause(False, 0.0))
    assert pauses == [0.02, 0.04, 0.08, 60.0]


def test_a_login_belongs_to_no_store(place):
    """A changed password is the same server: what it has is not sent again."""
    prints = {fingerprint(f"http://{login}h:5000") for login in ("", "a:b@", "a:c@")}
    assert len(prints) == 1 and fingerprint("http://other:5000") not in prints


def test_a_locked_database_costs_no_more_than_the_time_given(place):
    place.study()
    assert place.deliver().pending == 0
    place.trial(0, 0.5)
    other = sqlite3.connect(place.root / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    running, began = place.tracker(), time.monotonic()
    running.start()
    delivery = running.close(1.0)
    assert time.monotonic() - began < 2.0
    assert delivery.pending == 6 and "not done within 1 s" in delivery.error
    other.execute("ROLLBACK")
    other.close()
    running._thread.join(30)
    assert place.deliver().pending == 0
    assert len(place.runs()["trial 0"]["metrics"]["val_loss"]) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_full_disk_loses_nothing(place, processes):
    place.study()
    place.deliver()
    for number in range(4):
        place.trial(number, 0.5, steps=200)
    room = (place.root / "mlflow.db").stat().st_size + 8192
    process = processes.Process(target=_drive_in_a_process, args=(str(place.root), room))
    process.start()
    process.join(90)
    assert process.exitcode == 0, "it was expected to run out of room and to say so"
    assert place.deliver().pending == 0
    assert all(
        len(run["metrics"]["val_loss"]) == 200
        for name, run in place.runs().items()
        if name != "quick"
    )


def test_what_mlflow_refuses_is_left_out_and_told(place):
    place.study()
    place.start(0)
    place.start(1)
    place.deliver()
    client = place.client()
    (run,) = client.search_runs(["1"], "tags.`hpo.trial` = '0'")
    client.delete_run(run.info.run_id)
    for trial in (0, 1):
        place.measure(trial, 0, 1.0)
        place.end(trial)
    place.close(1, {0: 1, 1: 2})
    delivery = place.deliver()
    assert delivery.pending == 0 and "deleted" in delivery.error
    assert len(place.told) == 1 and place.told[0].startswith("MLflow refused something")
    runs = place.runs()
    assert runs["trial 1"]["status"] == runs["quick"]["status"] == "FINISHED"


def test_a_database_that_was_thrown_away_is_filled_again(place, database, monkeypatch):
    whole_study(place)
    place.deliver()
    before = place.runs()
    _forget_all_runs(place.root / "mlflow.db")
    place.study()
    place.close(2, {2: 1, 0: 2})
    assert place.deliver().pending == 0
    after = place.runs()
    assert set(after) == set(before)
    assert after["trial 2"] == before["trial 2"]


def test_another_store_gets_everything(place, tmp_path_factory, database):
    whole_study(place)
    place.deliver()
    root = tmp_path_factory.mktemp("second")
    shutil.copy(database, root / "mlflow.db")
    assert place.deliver(uri=default_uri(root)).delivered == 19
    first, second = place.runs(), place.runs(default_uri(root))
    assert first == second


def test_a_deleted_experiment_is_taken_out_of_the_bin(place):
    place.study()
    place.deliver()
    place.client().delete_experiment("1")
    place.study()
    place.trial(0, 0.5)
    place.deliver()
    assert place.runs()["trial 0"]["status"] == "FINISHED"


def test_events_nobody_understands_stop_nothing(place):
    place.study()
    place.say("end", trial=0)
    place.say("measurement", trial="x", attempt=0, step=0)
    place.say("hello")
    place.spool.append({"event": "start", "trial": 1, "attempt": 0})
    place.trial(2, 0.5)
    delivery = place.deliver()
    assert delivery.pending == 0 and "not understood" in delivery.error
    assert set(place.runs()) == {"quick", "trial 2"}


def test_closing_without_events_or_without_starting_is_fine(place):
    assert place.deliver() == tracker.Delivery(0, 0, "")
    never_started = place.tracker()
    place.study()
    assert never_started.close(1) == tracker.Delivery(0, 1, "")


# -- how it is done ------------------------------------------------------------------------------


def test_a_short_trial_costs_three_calls(place, monkeypatch):
    calls, real = [], stores._call
    running = place.tracker()
    place.study()
    for number in range(5):
        place.trial(number, 0.5, "pruned", steps=150)
    monkeypatch.setattr(stores, "_call", lambda function: (calls.append(1), real(function))[1])
    running.start()
    assert running.close(60).pending == 0
    of_study = 6  # connect, look for the experiment, create it, create the run, log, add a file
    assert len(calls) == 5 * 3 + of_study


def test_only_a_stretch_of_the_spool_is_in_memory(place, monkeypatch):
    monkeypatch.setattr(tracker, "_MOST_EVENTS", 7)
    held, real = [], tracker.Sender.send
    monkeypatch.setattr(
        tracker.Sender,
        "send",
        lambda self, events: (held.append(len(events)), real(self, events))[1],
    )
    whole_study(place)
    assert place.deliver().delivered == 19
    assert held == [7, 7, 5]
    assert place.runs()["trial 0"]["status"] == "FINISHED"


def test_the_cursor_does_not_grow_with_the_study(place):
    place.study()
    for number in range(3):
        place.trial(number, 0.5)
    place.deliver()
    size = (place.folder / "cursor.json").stat().st_size
    for number in range(3, 9):
        place.trial(number, 0.5)
    place.deliver()
    assert (place.folder / "cursor.json").stat().st_size < size + 20


entities = st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=6000), max_size=130)


@given(st.integers(0, 2500), entities, entities)
def test_every_piece_is_within_the_limits_of_mlflow(count, params, tags):
    points = [batch.Point("val_loss", 0.5, BEGAN, step) for step in range(count)]
    seen = ([], [], [])
    for metrics, some_params, some_tags in batch.chunks(points, params, tags):
        assert 0 < len(metrics) + len(some_params) + len(some_tags) <= 1000
        assert len(some_params) <= 100 and len(some_tags) <= 100
        for kept, some in zip(seen, (metrics, some_params, some_tags), strict=True):
            kept.extend(some)
    assert seen == (points, list(params.items()), list(tags.items()))


@given(st.text(max_size=300))
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import (
        _validate_metric_name,
        _validate_param_name,
        _validate_tag_name,
    )

    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(parcel.clean(name))


@pytest.mark.slow
def test_a_fresh_database_is_made_without_a_word(tmp_path):
    """In a process of its own: warnings are errors, nothing is printed, no stray folder appears."""
    script = (
        "import sys, threading; from pathlib import Path\n"
        "from hpo.spool import Spool; from hpo.tracking import Tracker, default_uri\n"
        "assert 'mlflow' not in sys.modules\n"
        "root = Path('kept here').absolute(); spool = Spool(root / 'events.jsonl')\n"
        "tracker = Tracker(spool, default_uri(root), root / 'artifacts', root / 'cursor.json')\n"
        "tracker.start()\n"
        "spool.append({'event': 'study', 'time': 1, 'study': 's', 'key': 'k', 'experiment': 'e'})\n"
        "delivery = tracker.close(60)\n"
        "assert (delivery.delivered, delivery.error) == (1, ''), delivery\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept here"]
    assert sorted(entry.name for entry in (tmp_path / "kept here").iterdir()) == [
        "cursor.json",
        "events.jsonl",
        "mlflow.db",
        "mlflow.db.lock",
    ]


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_uri", "resolved"),
    [
        ("sqlite:///mlruns/mlflow.db", "sqlite:////base/mlruns/mlflow.db"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("http://host:5000/", "http://host:5000"),
        ("https://host/mlflow", "https://host/mlflow"),
        ("postgresql+psycopg://u@host/db", "postgresql+psycopg://u@host/db"),
    ],
)
def test_addresses_become_absolute(given_uri, resolved):
    assert resolve_uri(given_uri, Path("/base")) == resolved


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "x://y"]
)
def test_addresses_that_keep_nothing_are_refused(uri, tmp_path):
    with pytest.raises(HpoError, match=r"sqlite:///mlruns/mlflow\.db"):
        resolve_uri(uri)


def test_an_old_file_store_is_recognised(tmp_path):
    mlruns = tmp_path / "mlruns"
    assert old_file_store(mlruns) is None
    (mlruns / "artifacts" / "0").mkdir(parents=True)
    (mlruns / "7").mkdir()
    assert old_file_store(mlruns) is None
    for name in ("0", "1"):
        (mlruns / name).mkdir()
        (mlruns / name / "meta.yaml").write_text("name: Default\n")
    told = old_file_store(mlruns)
    assert told.startswith(f"{mlruns} holds an old MLflow file store (folders 0/, 1/).")
    assert f"mlflow migrate-filestore --source {mlruns}" in told and "--mlruns runs2" in told
