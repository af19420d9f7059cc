"""`hpo ui`: the links it prints open, in a real browser, pages that show the study.

The browser tests use Debian's chromium. Without it they are skipped, but never where CI is set.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
from shell import hpo, one_document
from studies import spec

from hpo import mlflowui
from hpo.errors import Unavailable
from hpo.folder import Folder, write_spec
from hpo.mlflowui import StudyRuns
from hpo.spool import Spool
from hpo.tracking import Tracker, default_uri
from hpo.tracking import cursor as cursors

BEGAN = 1_700_000_000_000
STUDY = StudyRuns("quick", "digits", "1", "ab12", ("c1", "c0"), ("h/dropout", "h/l2"), "val_loss")
OTHER = StudyRuns("other", "ridge", "2", "cd34", (), (), "val_loss")
BASE = "http://127.0.0.1:5000"


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind((mlflowui.HOST, 0))
        return probe.getsockname()[1]


def fragment(link):
    """The page and the query behind the # of a link."""
    page, _, query = urlsplit(link).fragment.partition("?")
    return page, {key: values[0] for key, values in parse_qs(query).items()}


# -- links and text ------------------------------------------------------------------------------


def test_links_name_exactly_the_runs():
    page, query = fragment(mlflowui.trials_link(BASE, STUDY))
    assert page == "/compare-runs"
    assert (query["runs"], query["experiments"]) == ('["c1","c0"]', '["1"]')
    page, query = fragment(mlflowui.studies_link(BASE, [STUDY, OTHER]))
    assert (query["runs"], query["experiments"]) == ('["ab12","cd34"]', '["1","2"]')
    page, query = fragment(mlflowui.charts_link(BASE, STUDY))
    assert page == "/experiments/1/runs/ab12/model-metrics"
    assert query["workflowType"] == "machine_learning"
    assert mlflowui.trials_link(BASE, OTHER) is None


def test_links_have_no_character_a_terminal_would_cut_at():
    links = [mlflowui.trials_link(BASE, STUDY), mlflowui.curves_link(BASE, STUDY)]
    for link in [*links, mlflowui.runs_link(BASE, STUDY), mlflowui.charts_link(BASE, STUDY)]:
        assert not set(link) & set(" \"'[]{}`<>")


def test_the_printed_text():
    lines = mlflowui.text(BASE, "database mlruns/mlflow.db", [STUDY, OTHER]).splitlines()
    assert [line for line in lines if BASE + "/" not in line] == [
        "MLflow at http://127.0.0.1:5000  (database mlruns/mlflow.db)",
        "  compare trials      experiment digits, filter  tags.\"hpo.study\" = 'quick'",
        "  their curves        val_loss; choose h/... as Y-axis",
        "  see the schedule    charts h/dropout, h/l2 over val_loss (same step axis)",
        "  compare studies     quick, other",
    ]
    assert "no runs yet" in mlflowui.text(BASE, "database mlruns/mlflow.db", [])


def test_a_taken_port_names_the_option(tmp_path):
    with closing(socket.socket()) as taken:
        taken.bind((mlflowui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        serving = mlflowui.serve("sqlite:////x.db", tmp_path, port, tmp_path / "log")
        with pytest.raises(Unavailable, match="address already in use") as caught, serving:
            pytest.fail("served on a taken port")
    assert f"hpo ui --port {port + 1}" in caught.value.hint


def test_a_server_that_cannot_start_says_why(tmp_path, monkeypatch):
    broken = [sys.executable, "-c", "print('first'); raise SystemExit('no such database')"]
    monkeypatch.setattr(mlflowui, "command", lambda *_: broken)
    serving = mlflowui.serve("sqlite:////x.db", tmp_path, free_port(), tmp_path / "ui.log")
    with pytest.raises(Unavailable, match="ended at once: first / no such database"), serving:
        pytest.fail("served by a broken server")


def test_a_tracking_server_is_used_as_it_is_but_for_the_password(tmp_path):
    with mlflowui.serve("http://me:secret@host:5000", tmp_path, 1, tmp_path / "log") as base:
        assert base == "http://host:5000"


def test_studies_of_a_server_are_linked_there_and_others_named(tmp_path, monkeypatch):
    """The latest study says which page; nothing is started for a server."""
    monkeypatch.setenv("HPO_MLRUNS", str(tmp_path))
    for number, (name, uri) in enumerate([("local", None), ("remote", "http://me:secret@host:1")]):
        folder = Folder(tmp_path / "studies" / name)
        write_spec(folder, spec(name=name, tracking_uri=uri))
        os.utime(folder.spec, (number, number))
        cursor = cursors.fresh(uri or default_uri(tmp_path))
        cursor.study, cursor.parent, cursor.experiment_id = name, "ab12", "7"
        cursor.save(folder.cursor)
    ended = hpo("ui")
    assert ended.code == 0 and ended.err == ""
    assert "http://host:1/#/experiments/7/runs" in ended.out and "secret" not in ended.out
    assert "  tracked elsewhere   local:  hpo ui --study local\n" in ended.out
    assert one_document(hpo("ui", "--json").out)["store"] == "http://me:***@host:1"
    there = hpo("ui", "--study", "local", "--print-only").out
    assert "http://127.0.0.1:5000/#/experiments/7/runs" in there and "elsewhere" not in there


def test_a_study_of_another_store_has_no_runs_here(tmp_path):
    assert mlflowui.study_runs(tmp_path / "cursor.json", "http://host") is None
    (tmp_path / "cursor.json").write_text("{}")
    assert mlflowui.study_runs(tmp_path / "cursor.json", "http://host") is None


FAKE_SERVER = """
import http.server, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""
HOLDER = """
import sys, time
from pathlib import Path
from hpo import mlflowui
fake, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
mlflowui.command = lambda *_: [sys.executable, "-c", fake, str(port)]
with mlflowui.serve("sqlite:////x.db", folder, port, folder / "log") as base:
    print(base, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_server_ends_with_us_however_we_end(tmp_path, number):
    port = free_port()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, FAKE_SERVER, str(port), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert holder.stdout.readline().decode().strip() == f"http://127.0.0.1:{port}"
    holder.send_signal(number)
    holder.communicate(timeout=20)
    assert gone(port), "the server outlived us"


def gone(port):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex((mlflowui.HOST, port)):
                return True
        time.sleep(0.02)
    return False


# -- the real pages ------------------------------------------------------------------------------


def write_study(mlruns, name, key, experiment="digits"):
    """A delivered study of three trials, the last one the best; its runs."""
    folder = mlruns / "studies" / name
    spool, uri = Spool(folder / "events.jsonl"), default_uri(mlruns)
    running = Tracker(spool, uri, mlruns / "artifacts", folder / "cursor.json")
    about = {"study": name, "key": key, "experiment": experiment, "metric": "val_loss"}
    spool.append({"event": "study", "time": BEGAN, **about, "params": {"sampler": "tpe"}})
    for trial in range(3):
        time_ = BEGAN + 10_000 * trial
        at = {"trial": trial, "attempt": 0}
        params = {"dropout": 0.1 * trial, "l2": 1e-4}
        spool.append({"event": "start", "time": time_, **at, "params": params})
        for step in range(0, 100, 5):
            metrics = {"val_loss": 1 / (1 + step) - trial / 10, "train_loss": 1 / (2 + step)}
            point = {"dropout": 0.1 * trial + step / 200, "l2": 1e-4}
            body = {"step": step, "metrics": metrics, "point": point}
            spool.append({"event": "measurement", "time": time_ + 10 * step, **at, **body})
        spool.append({"event": "end", "time": time_ + 5000, **at, "outcome": "complete"})
        spool.append({"event": "best", "time": time_ + 5000, "trial": trial, "value": -trial / 10})
    spool.append(
        {"event": "close", "time": BEGAN + 40_000, "status": "finished", "best": 2}
        | {"ranks": {2: 1, 1: 2, 0: 3}}
    )
    running.start()
    delivery = running.close(120)
    assert (delivery.pending, delivery.error) == (0, "")
    return mlflowui.study_runs(folder / "cursor.json", uri)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The real MLflow server on two delivered studies: its address and their runs."""
    mlruns = tmp_path_factory.mktemp("mlruns")
    studies = [write_study(mlruns, "quick", "k1"), write_study(mlruns, "later", "k2")]
    log = mlruns / "ui.log"
    with mlflowui.serve(default_uri(mlruns), mlruns / "artifacts", free_port(), log) as base:
        yield base, studies


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: apt-get install chromium")
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["background-networking", "component-update", "sync", "gpu"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", *(f"--disable-{name}" for name in quiet)],
        )
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A page that fails the test for errors in its console, but for the usual two of MLflow."""
    opened = browser.new_page(viewport={"width": 1500, "height": 1200})
    opened.set_default_timeout(60_000)
    errors = []
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    usual = ("404 (Not Found)", "ResizeObserver loop completed")
    assert [text for text in errors if not any(part in text for part in usual)] == []


def shown(page, link, *texts):
    """The text of the page at `link` once it holds all of `texts`."""
    page.goto("about:blank")
    page.goto(link)
    for text in texts:
        page.get_by_text(text, exact=False).first.wait_for()
    return page.inner_text("body")


def drawn(page, *legends):
    """Waits for the chart whose legend holds these texts, and for a line for each of them."""
    chart = page.get_by_test_id("experiment-view-compare-runs-card")
    for legend in legends:
        chart = chart.filter(has_text=legend)
    chart.first.scroll_into_view_if_needed()
    lines = chart.first.locator('path.js-line[d*="L"]')  # L: goes on to a second point
    lines.nth(len(legends) - 1).wait_for(state="attached")


@pytest.mark.browser
def test_the_trials_link_compares_the_trials(page, site):
    base, (study, _) = site
    text = shown(page, mlflowui.trials_link(base, study), "Comparing 3 Runs", "trial 2")
    assert text.index("trial 2") < text.index("trial 1") < text.index("trial 0")
    assert "hpo.rank" in text and "dropout" in text
    # the view about training, not the one about language models
    assert "Model registry" in text and "Prompts" not in text


@pytest.mark.browser
def test_the_curves_link_draws_trials_over_each_other(page, site):
    base, (study, _) = site
    shown(page, mlflowui.curves_link(base, study), "trial 2", "trial 0")
    drawn(page, *(f"trial {number} (val_loss)" for number in range(3)))


@pytest.mark.browser
def test_the_schedule_link_draws_knobs_under_the_losses(page, site):
    base, (study, _) = site
    text = shown(page, mlflowui.charts_link(base, study), "quick (h/dropout)")
    assert "quick (best/val_loss)" in text
    for key in ("best/val_loss", "h/dropout", "train_loss"):
        drawn(page, f"quick ({key})")


@pytest.mark.browser
def test_the_first_chart_page_is_not_empty(page, site):
    """Its table is collapsed: only the studies' own runs are drawn."""
    base, (study, _) = site
    link = f"{base}/#/experiments/{study.experiment_id}/runs?compareRunsMode=CHART"
    shown(page, f"{link}&workflowType=machine_learning", "h/dropout")
    drawn(page, "quick", "later")


@pytest.mark.browser
def test_the_runs_link_filters_to_the_study(page, site):
    base, (study, _) = site
    shown(page, mlflowui.runs_link(base, study), "4 matching runs")
    page.get_by_role("link", name="quick").first.wait_for()
    assert page.get_by_role("link", name="later").count() == 0


@pytest.mark.browser
def test_the_studies_link_compares_studies(page, site):
    base, studies = site
    shown(page, mlflowui.studies_link(base, studies), "Comparing 2 Runs", "quick", "later")


@pytest.mark.slow
def test_a_tracking_server_that_dies_and_comes_back_has_everything_once(tmp_path):
    """Down at the start, up, killed in the middle, up again at the end."""
    mlruns, port = tmp_path / "mlruns", free_port()
    folder, uri = mlruns / "studies" / "quick", f"http://127.0.0.1:{port}"
    spool, told = Spool(folder / "events.jsonl"), []

    def say(event, **data):
        spool.append({"event": event, "time": BEGAN + spool.size(), **data})

    def deliver():
        cursor = folder / "cursor.json"
        running = Tracker(spool, uri, mlruns / "artifacts", cursor, told.append)
        running.start()
        return running.close(60)

    def trial(number):
        at = {"trial": number, "attempt": 0}
        say("start", **at, params={"dropout": 0.1})
        for step in range(20):
            say("measurement", **at, step=step, metrics={"val_loss": 1 / (1 + step)}, point={})
        say("end", **at, outcome="complete")

    def serve():
        return mlflowui.serve(default_uri(mlruns), mlruns / "artifacts", port, tmp_path / "log")

    artifact = tmp_path / "spec.yaml"
    artifact.write_text("name: quick\n")
    about = {"study": "quick", "key": "k", "experiment": "digits", "artifacts": [str(artifact)]}
    say("study", **about)
    trial(0)
    delivery = deliver()
    assert delivery.pending == 23 and delivery.error == f"{uri} does not answer"
    with serve():
        trial(1)
        cursor = folder / "cursor.json"
        running = Tracker(spool, uri, mlruns / "artifacts", cursor, told.append)
        running.start()
        while not cursor.exists():
            time.sleep(0.05)
    trial(2)  # nobody is there
    say("close", status="finished", best=1, ranks={1: 1, 0: 2, 2: 3})
    running.close(20)
    with serve():
        assert deliver().pending == 0
        assert deliver().error == ""
        with urlopen(f"{uri}/health") as answer:
            assert answer.status == 200

        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        runs = {run.info.run_name: run for run in client.search_runs(["1"])}
        assert sorted(runs) == ["quick", "trial 0", "trial 1", "trial 2"]
        for name, run in runs.items():
            history = client.get_metric_history(run.info.run_id, "val_loss")
            assert [point.step for point in history] == list(range(20)), name
            assert run.info.status == "FINISHED"
        files = client.list_artifacts(runs["quick"].info.run_id)
        assert [file.path for file in files] == ["spec.yaml"]
