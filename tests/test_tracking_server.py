"""Studies tracked on a real MLflow server: all of it arrives once, whatever the server does."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import MlflowServer
from shell import Ended, process, start, study_file
from studies import until

from hpo.spool import Spool

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

USER, PASSWORD, WRONG = "ada", "sesame-opens-it", "sesame-stays-shut"
SERVED = "mlflow: true\nbudget: {trials: 2}\n"
Points = list[tuple[int, int, float | str]]


@contextmanager
def running(server: MlflowServer) -> Iterator[MlflowServer]:
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Everybody may write there; a test that has killed it has started it again."""
    with running(MlflowServer(tmp_path_factory.mktemp("server"))) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that asks for a password."""
    pytest.importorskip("flask_wtf", reason="MLflow's server asks for passwords only with it")
    folder = tmp_path_factory.mktemp("guarded")
    with running(MlflowServer(folder, USER, PASSWORD)) as started:
        yield started


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run, with nothing of the user's in the environment."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HPO_MLRUNS", str(tmp_path / "mlruns"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- what was sent, and what is there ------------------------------------------------------------


def events(folder: Path) -> list[dict[str, Any]]:
    return [event for _, event in Spool(folder / "events.jsonl").read()]


def sent(folder: Path) -> dict[str, dict[str, Points]]:
    """The metric points of each run, worked out from the events alone."""
    metric, best = "", None
    bests: Points = []
    curves: dict[int, dict[str, Points]] = {}
    once: dict[int, dict[str, Points]] = {}
    for event in events(folder):
        kind = event["event"]
        if kind == "study":
            metric = event["metric"]
        elif kind == "best":
            bests.append((event["trial"], event["time"], event["value"]))
        elif kind == "close":
            best = event["best"]
        elif kind in ("measurement", "end"):
            values = event["metrics"] | {f"h/{k}": v for k, v in event.get("point", {}).items()}
            points = (curves if kind == "measurement" else once).setdefault(event["trial"], {})
            for key, value in values.items():
                number = value if math.isfinite(value) else "nan"
                points.setdefault(key, []).append((event.get("step", 0), event["time"], number))
    assert best is not None
    trials = {f"trial {n}": curves.get(n, {}) | metrics for n, metrics in once.items()}
    return {folder.name: {f"best/{metric}": bests, **curves[best]}, **trials}


class Kept:
    """What the server has of one study, which others of its name may be beside."""

    def __init__(self, uri: str, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        (key,) = {event["key"] for event in events(folder) if event["event"] == "study"}
        found = self.client.search_runs(experiments, f"tags.`hpo.key` LIKE '{key}/%'")
        self.runs = {run.info.run_name: run for run in found}
        assert len(self.runs) == len(found), "a run is there twice"

    def metrics(self) -> dict[str, dict[str, Points]]:
        return {name: self._of(run) for name, run in self.runs.items()}

    def _of(self, run: Any) -> dict[str, Points]:
        return {
            key: [
                (p.step, p.timestamp, "nan" if math.isnan(p.value) else p.value)
                for p in self.client.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }

    def files(self, run: str) -> list[str]:
        return sorted(f.path for f in self.client.list_artifacts(self.runs[run].info.run_id))

    def download(self, run: str, file: str, folder: Path) -> bytes:
        folder.mkdir(exist_ok=True)
        run_id = self.runs[run].info.run_id
        return Path(self.client.download_artifacts(run_id, file, str(folder))).read_bytes()

    def everything(self) -> str:
        """Params, tags and statuses as text."""
        return "\n".join(str(run.to_dictionary()) for run in self.runs.values())


def in_order(runs: dict[str, dict[str, Points]]) -> dict[str, dict[str, Points]]:
    return {
        name: {key: sorted(points, key=str) for key, points in metrics.items()}
        for name, metrics in runs.items()
    }


def assert_whole(uri: str, folder: Path) -> Kept:
    """Every point of the study is on the server, to the last bit, and none twice."""
    kept = Kept(uri, folder)
    assert in_order(kept.metrics()) == in_order(sent(folder))
    statuses = {name: run.info.status for name, run in kept.runs.items()}
    assert set(statuses.values()) == {"FINISHED"}, statuses
    parent = kept.runs[folder.name].info.run_id
    for name, run in kept.runs.items():
        if name != folder.name:
            assert run.data.tags["mlflow.parentRunId"] == parent
    return kept


def assert_unseen(secret: str, folder: Path, *texts: str, stored: bool = False) -> None:
    """The password is in no text and in no file, but in the owner's spec.yaml if `stored`."""
    for text in texts:
        assert secret not in text
    holding = [file for file in folder.rglob("*") if file.is_file()]
    holding = [file for file in holding if secret.encode() in file.read_bytes()]
    names = [file.name for file in holding]
    assert names == (["spec.yaml"] if stored else [])
    assert all(file.stat().st_mode & 0o077 == 0 for file in holding)


def studied(here: Path, name: str = "s") -> Path:
    return here / "mlruns" / "studies" / name


def told(ended: Ended) -> str:
    return ended.out + ended.err


# -- all of it arrives ---------------------------------------------------------------------------


def test_all_of_a_study_is_on_the_server(server: MlflowServer, here: Path) -> None:
    ended = process("run", study_file(here, SERVED, "curve"), "--tracking-uri", server.uri)
    assert ended.code == 0 and f"mlflow      {server.uri}" in ended.err, told(ended)
    assert "MLflow" not in ended.err and "View run" not in told(ended)
    kept = assert_whole(server.uri, studied(here))
    parent, child = kept.runs["s"], kept.runs["trial 1"]
    assert parent.data.params["budget.trials"] == "2" and parent.data.params["sampler"] == "tpe"
    starts = {e["trial"]: e["params"] for e in events(studied(here)) if e["event"] == "start"}
    assert child.data.params == {name: str(value) for name, value in starts[1].items()}
    assert {run.data.tags.get("hpo.rank") for run in kept.runs.values()} == {None, "1", "2"}
    assert child.data.tags["hpo.outcome"] == "complete"
    for file in ("spec.yaml", "schedule.json"):
        there = kept.download("s", file, here / "there")
        assert there == (studied(here) / file).read_bytes()
    assert not (here / "mlruns" / "mlflow.db").exists()


def test_pictures_of_an_objective_arrive(server: MlflowServer, here: Path) -> None:
    pytest.importorskip("skimage", reason="the photographs are its")
    text = (
        "name: s\nobjective: tv_denoise\nsampler: maid\nworkers: 1\nbudget: {trials: 1}\n"
        "objective_options: {size: 24, pictures: 2}\nsampler_options: {iterations: 3}\n"
    )
    (here / "study.yaml").write_text(text)
    ended = process("run", "study.yaml", "--tracking-uri", server.uri)
    assert ended.code == 0, told(ended)
    kept = assert_whole(server.uri, studied(here))
    name = "clean_noisy_denoised.png"
    (local,) = studied(here).rglob(name)
    assert kept.download("trial 0", name, here / "there") == local.read_bytes()


# -- passwords -----------------------------------------------------------------------------------


def test_a_password_in_the_environment_is_in_nothing_else(
    guarded: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", guarded.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    file = study_file(here, SERVED + "workers: 1\n", "curve")
    ended = process("run", file)
    assert ended.code == 0 and f"{guarded.uri}  (MLFLOW_TRACKING_URI)" in ended.err, told(ended)
    shown = [process(*words) for words in (["show", "s", "--json"], ["ui", "--print-only"])]
    assert f"{guarded.uri}/#/compare-runs" in shown[1].out
    kept = assert_whole(guarded.uri, studied(here))
    assert kept.files("s") == ["schedule.json", "spec.yaml"]
    texts = [told(ended), *map(told, shown), kept.everything()]
    assert_unseen(PASSWORD, here / "mlruns", *texts)


def test_a_password_in_the_address_is_stored_for_its_owner_alone(
    guarded: MlflowServer, here: Path
) -> None:
    uri = guarded.uri_of(USER, PASSWORD)
    file = study_file(here, f"{SERVED}tracking_uri: {uri}\n", "curve")
    commands = [
        ["check", file, "--no-probe", "--print-spec"],
        ["run", file, "--json"],
        ["show", "s", "--json"],
        ["ui", "--print-only"],
        ["ui", "--json"],
        ["doctor", "--tracking-uri", uri],
    ]
    ended = [process(*words) for words in commands]
    assert [each.code for each in ended[:5]] == [0] * 5, [*map(told, ended)]
    assert f"{guarded.uri}/#/compare-runs" in ended[3].out
    assert json.loads(ended[4].out)["base"] == guarded.uri
    assert "***@" in ended[5].out and "answers, MLflow " in ended[5].out
    kept = assert_whole(uri, studied(here))
    assert kept.files("s") == ["schedule.json"]
    texts = [*map(told, ended), kept.everything()]
    assert_unseen(PASSWORD, here / "mlruns", *texts, stored=True)


@pytest.mark.parametrize("place", ["environment", "address"])
def test_a_wrong_password_is_told_once_and_the_right_one_delivers_all(
    place: str, guarded: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = guarded.uri_of(USER, PASSWORD), guarded.uri_of(USER, WRONG)
    uri = guarded.uri if place == "environment" else wrong
    if place == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WRONG)
    ended = process("run", study_file(here, SERVED, "curve"), "--tracking-uri", uri)
    assert ended.code == 0 and "best      trial" in ended.out, told(ended)
    assert ended.err.count("MLflow does not take metrics: ") == 1
    assert "refuses this user name and password (401)" in ended.err
    remedy = {"environment": "set MLFLOW_TRACKING_USERNAME", "address": "--tracking-uri http://U"}
    assert remedy[place] in ended.err and "Nothing is lost" in ended.err
    asked = process("doctor", "--tracking-uri", uri)
    assert asked.code == 5 and "refuses this user name and password (401)" in asked.out
    stored = place == "address"
    assert_unseen(WRONG, here / "mlruns", told(ended), told(asked), stored=stored)
    if place == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        later = process("ui", "--print-only")
    else:
        later = process("run", "--resume", "--name", "s", "--tracking-uri", right)
    assert later.code == 0 and "MLflow has not" not in later.err, told(later)
    assert_whole(right, studied(here))
    assert_unseen(PASSWORD, here / "mlruns", told(later), stored=stored)


def test_a_user_who_may_not_write_is_told_so(guarded: MlflowServer, here: Path) -> None:
    import requests

    users = f"{guarded.uri}/api/2.0/mlflow/users/create"
    reader = {"username": "reader", "password": PASSWORD}
    assert requests.post(users, json=reader, auth=(USER, PASSWORD), timeout=20).ok
    owned = process(
        *("run", study_file(here / "a", SERVED, "curve", "owned")),
        *("--tracking-uri", guarded.uri_of(USER, PASSWORD)),
    )
    assert owned.code == 0
    ended = process(
        *("run", study_file(here / "b", SERVED, "curve")),
        *("--tracking-uri", guarded.uri_of("reader", PASSWORD)),
    )
    assert ended.code == 0 and "lets this user not do that (403)" in ended.err, told(ended)
    assert ended.err.count("MLflow does not take metrics: ") == 1


# -- outages -------------------------------------------------------------------------------------


def waiting_study(here: Path, marks: Path, trials: int) -> Path:
    text = f"mlflow: true\nworkers: 1\nbudget: {{trials: {trials}}}\n"
    return study_file(here, f"{text}objective_options: {{folder: {marks}}}\n", "waited")


def begun(marks: Path, number: int) -> None:
    until(lambda: len(list(marks.glob("running-*"))) > number, 60)


def let(marks: Path, *numbers: int) -> None:
    for number in numbers:
        (marks / f"go-{number}").touch()


def longest_held(folder: Path) -> float:
    """Seconds: the most that its reports held up any one trial."""
    measured = [event for event in events(folder) if event["event"] == "measurement"]
    return max(event["metrics"]["held"] for event in measured)


def test_a_server_killed_and_started_again_has_every_metric_once(
    server: MlflowServer, here: Path, marks: Path
) -> None:
    study = start("run", waiting_study(here, marks, 4), "--tracking-uri", server.uri)
    cursor = studied(here) / "mlflow-cursor.json"
    let(marks, 0)
    begun(marks, 1)
    until(cursor.exists, 60)  # the first of it has been delivered
    server.kill()
    let(marks, 1, 2)
    begun(marks, 3)  # two whole trials without a server
    server.start()
    let(marks, 3)
    out, err = study.communicate(timeout=120)
    assert study.returncode == 0, out + err
    assert err.count("MLflow does not take metrics: ") <= 1
    if "MLflow has not received" in err:  # it had ended before the server was found again
        assert process("ui", "--print-only").code == 0
    assert longest_held(studied(here)) < 1.0
    assert_whole(server.uri, studied(here))


def test_a_server_killed_to_the_end_gets_all_from_the_next_run(
    server: MlflowServer, here: Path, marks: Path
) -> None:
    study = start("run", waiting_study(here, marks, 3), "--tracking-uri", server.uri)
    let(marks, 0)
    begun(marks, 1)
    until((studied(here) / "mlflow-cursor.json").exists, 60)
    server.kill()
    try:
        let(marks, 1, 2)
        out, err = study.communicate(timeout=120)
    finally:
        server.start()
    assert study.returncode == 0 and "best      trial" in out, out + err
    assert err.count("MLflow does not take metrics: ") == 1
    assert err.count("MLflow has not received ") == 1 and "Nothing is lost" in err
    assert longest_held(studied(here)) < 1.0
    let(marks, 3)
    again = process("run", "--resume", "--name", "s", "--trials", "4")
    assert again.code == 0 and "MLflow" not in again.err, told(again)
    assert_whole(server.uri, studied(here))


SILENT = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
kept = []
while True:
    kept.append(listening.accept())
"""
PAGE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(int(sys.argv[1]))
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>\\n<body>Gateway</body></html>")
    do_POST = do_PATCH = do_GET
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        (SILENT, "", "does not answer in time"),
        (PAGE, "500", "answers with an error (500)"),
        (PAGE, "200", "answers, but not as MLflow does: a page, perhaps of a proxy"),
        (PAGE, "404", "answers, but not as MLflow does (404)"),
    ],
)
def test_what_is_no_server_holds_nothing_up_and_a_server_gets_all(
    program: str, status: str, said: str, server: MlflowServer, here: Path, marks: Path
) -> None:
    let(marks, 0, 1, 2)
    other = subprocess.Popen([sys.executable, "-c", program, status], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        uri = f"http://me:{PASSWORD}@127.0.0.1:{int(other.stdout.readline())}"
        ended = process("run", waiting_study(here, marks, 3), "--tracking-uri", uri)
        asked = process("doctor", "--tracking-uri", uri)
    finally:
        other.kill()
        other.communicate()
    assert ended.code == 0 and "best      trial" in ended.out, told(ended)
    assert ended.err.count("MLflow does not take metrics: ") == 1 and said in ended.err
    assert "Nothing is lost" in ended.err and longest_held(studied(here)) < 1.0
    assert asked.code == 5 and said in asked.out
    assert_unseen(PASSWORD, here / "mlruns", told(ended), told(asked), stored=True)
    later = process("run", "--resume", "--name", "s", "--tracking-uri", server.uri)
    assert later.code == 0 and "MLflow has not" not in later.err, told(later)
    assert_whole(server.uri, studied(here))
