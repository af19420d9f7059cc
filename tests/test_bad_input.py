"""Every bad input has a clear error and nothing is lost: each one given to the real command.

The message says where, what was found and what to do; the exit code is the right one; there is no
traceback, no trial is missing from the ledger, no process is left over.
"""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shell import Ended, hpo, process, start, study_file, write

from hpo.folder import Folder
from hpo.result import Result, open_study
from hpo.spool import Spool

pytestmark = pytest.mark.usefixtures("no_process_left")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def clear(ended: Ended, code: int, *said: str) -> None:
    """The exit code and the words are the right ones, and Python's are not there."""
    assert ended.code == code, ended
    for words in said:
        assert words in ended.err, ended.err
    assert "Traceback" not in ended.err + ended.out


def states(study: str = "s") -> list[str]:
    return [record.state for record in open_study(study).records if record.state != "waiting"]


def study() -> Result:
    return open_study("s")


# -- the spec -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("bugdet: {trials: 3}\n", 1, "unknown key 'bugdet', did you mean 'budget'?"),
        ("budget: {trails: 3}\n", 10, "unknown key 'trails', did you mean 'trials'?"),
        ("space: {x: {lo: 0, high: 1}}\n", 13, "unknown key 'lo', did you mean 'low'?"),
        ("space: {x: {low: a, high: 1}}\n", 18, "low 'a' is text, a number is due"),
        ("space: {x: {low: 2, high: 1}}\n", 13, "low 2 is above high 1"),
        ("space: {x: {low: 0, high: 1, scale: log}}\n", 13, "the logarithm of 0 does not exist"),
        ("budget: {trials: many}\n", 18, "budget.trials is 'many'; it must be a whole number"),
        ("fixed: {x: 0.5}\n", 9, "knob 'x' is both searched and fixed"),
        ("sampler: tpee\n", 10, "unknown sampler 'tpee', did you mean 'tpe'?"),
        ("seed: 1\nseed: 2\n", 1, "key 'seed' is given twice"),
        ("seed: [1]]\n", 10, "not YAML"),
    ],
)
def test_a_mistake_in_the_file_is_pointed_at(text: str, column: int, said: str, here: Path) -> None:
    ended = hpo("run", study_file(here, text))
    clear(ended, 2, said)
    place, line, carets = ended.err.splitlines()[:3]
    assert re.search(rf"study\.yaml:\d+:{column}: ", place)
    assert line.endswith(f" | {text.splitlines()[-1]}") and carets.index("^") == column + 7
    assert not (here / "mlruns").exists() and ended.out == ""


def test_a_knob_that_is_none_is_told_with_the_one_that_was_meant(here: Path) -> None:
    write(here / "study.yaml", "objective: digits\nspace: {dropuot: {high: 0.7}}\n")
    ended = hpo("run", "study.yaml")
    clear(
        ended,
        2,
        "study.yaml:2:9: unknown knob 'dropuot', did you mean 'dropout'?",
        "(hpo list regularizers)",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no.yaml"], "no.yaml: no such file"),
        (["study.yaml", "--objective", "no.py:f"], "no such file"),
        (["study.yaml", "--start-from", "no.json"], "no.json: No such file or directory"),
        (["study.yaml", "--name", "a/b"], "--name a/b: name 'a/b' cannot be a folder name"),
        (
            ["--objective", "table", "--set", "objective_options={path: no.csv, target: y}"],
            "no.csv",
        ),
    ],
)
def test_a_file_that_is_missing_is_named(arguments: list[str], said: str, here: Path) -> None:
    study_file(here)
    clear(hpo("run", *arguments), 2, said)
    assert not (here / "mlruns").exists()


def test_a_name_that_is_taken_is_a_conflict_and_the_study_stays_as_it_is(here: Path) -> None:
    file = study_file(here)
    assert hpo("run", file, "-q").code == 0
    before = {path: path.read_bytes() for path in study().folder.path.iterdir() if path.is_file()}
    clear(hpo("run", file, "--seed", "3"), 6, "study s exists (3 trials, finished", "--resume")
    assert {path: path.read_bytes() for path in before} == before


# -- objectives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("raises", "ValueError: expected 3 channels, got 1  (toy_objectives.py:"),
        ("never_finite", "val_loss is nan at step 2"),
        ("returns_nothing", "returned nothing"),
        ("yields_nothing", "ended without yielding anything"),
        ("exits", "the objective called sys.exit(3)"),
        ("text_metric", "gave val_loss = 'low', which is not a number"),
        ("other_metric", "loss, not val_loss, which the study minimizes"),
        ("dies", "the worker ended with exit code 7 in the middle of the trial"),
        ("interrupts_itself", "KeyboardInterrupt"),
    ],
)
def test_an_objective_that_never_succeeds_ends_the_study_with_its_reason(
    objective: str, said: str, here: Path
) -> None:
    """The first three trials fail alike: the study ends, and says so once."""
    options = f"objective_options: {{folder: '{here}'}}\n" if objective == "never_finite" else ""
    text = f"{options}workers: 1\nretries: 1\nbudget: {{trials: 20}}\n"
    ended = hpo("run", study_file(here, text, objective))
    clear(ended, 3, said, "3 of 3 trials failed, all with: ", "hpo show s --trial 0")
    assert ended.out == "" and states() == ["failed"] * 3
    shown = hpo("show", "s")
    assert shown.code == 0 and "3 x  " in shown.out and said in shown.out
    if objective in {"raises", "exits"}:
        assert "toy_objectives.py" in hpo("show", "s", "--trial", "0").out


def test_an_objective_that_sometimes_fails_loses_no_trial(here: Path) -> None:
    text = "workers: 1\nbudget: {trials: 8}\nsampler: random\nobjective_options: {limit: 0.3}\n"
    ended = hpo("run", study_file(here, text, "raises_above"))
    clear(ended, 0, "failed   ValueError: too large")
    assert set(states()) == {"complete", "failed"} and len(states()) == 8
    assert "(start values failed)" in ended.out


@pytest.mark.parametrize(
    ("objective", "options", "trials"),
    [
        ("forks", {}, 2),
        ("forks_and_raises", {}, 2),
        ("leaves_process", {"folder": "."}, 1),
        ("leaves_thread", {}, 2),
        ("prints", {"megabytes": 12}, 2),
    ],
)
def test_an_objective_that_forks_or_prints_megabytes_is_none_of_the_studys_business(
    objective: str, options: dict[str, Any], trials: int, here: Path
) -> None:
    options = {key: str(here) if key == "folder" else value for key, value in options.items()}
    text = f"objective_options: {json.dumps(options)}\nworkers: 1\nbudget: {{trials: {trials}}}\n"
    ended = hpo("run", study_file(here, text, objective))
    clear(ended, 0)
    assert states() == ["complete"] * trials and len(ended.both) < 2000
    assert sum(path.stat().st_size for path in study().folder.path.glob("*.log")) < 12_000_000


def test_an_objective_that_yields_after_it_was_closed_is_pruned_all_the_same(here: Path) -> None:
    options = f"objective_options: {{folder: '{here / 'marks'}'}}\n"
    (here / "marks").mkdir()
    text = "workers: 1\nprune: {median: {startup_trials: 1}}\nbudget: {trials: 4}\n"
    ended = hpo("run", study_file(here, options + text, "ignores_close"))
    clear(ended, 0, "pruned")
    assert set(states()) == {"complete", "pruned"} and len(states()) == 4
    assert list((here / "marks").glob("ignored-*"))


def test_an_objective_that_eats_all_memory_fails_alone(here: Path) -> None:
    text = "workers: 1\nmemory_per_trial: 2GiB\nbudget: {trials: 20}\n"
    ended = hpo("run", study_file(here, text, "allocates"))
    clear(ended, 3, "MemoryError", "it is tried alone", "more memory for each: memory_per_trial")
    assert states() == ["failed"] * 3


# -- the folder ---------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A file system of its own at `folder`; False where this process may not make one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_below_a_file_cannot_be_written(here: Path) -> None:
    write(here / "file", "")
    clear(
        hpo("run", study_file(here), "--mlruns", "file/below"),
        2,
        "cannot write there: Not a",
        "--mlruns DIR",
    )
    clear(hpo("run", study_file(here), "--mlruns", "file"), 2, "'file' is a file")


def test_a_folder_that_is_read_only_is_told_before_anything_runs(here: Path) -> None:
    """Where nothing can be mounted: /proc, in which not even root makes a folder."""
    with mounted(here / "runs", "size=1m") as done:
        runs = here / "runs" if done else Path("/proc/hpo")
        if done:
            subprocess.run(["mount", "-o", "remount,ro", str(runs)], check=True)
        ended = hpo("run", study_file(here), "--mlruns", runs)
        said = f"{runs / 'studies' / 's'}: cannot write there: "
        clear(ended, 2, said, "Read-only file system" if done else "No such file", "--mlruns DIR")
        clear(hpo("list", "--mlruns", runs), 0)


def test_a_full_disk_stops_the_study_and_room_lets_it_go_on(here: Path) -> None:
    """Where no small disk can be mounted, files that may not grow are as good."""
    text = "workers: 1\nsampler: random\nbudget: {trials: 400}\n"
    file, options = study_file(here, text, "curve"), ["--mlruns", "runs"]
    with mounted(here / "runs", "size=192k") as done:
        if done:
            ended = hpo("run", file, *options)
            clear(ended, 2, "No space left on device", "make room or give write access")
            subprocess.run(["mount", "-o", "remount,size=8m", str(here / "runs")], check=True)
        else:
            ended = process("run", file, *options, preexec_fn=no_large_files)
            clear(ended, 2, "File too large")
        kept = len([r for r in open_study("s", "runs").records if r.state == "complete"])
        assert kept > 5
        clear(hpo("run", "--resume", "--name", "s", *options, "--trials", f"{kept + 9}"), 0)
        result = open_study("s", "runs")
        assert [r.number for r in result.records] == list(range(kept + 9))
        assert {r.state for r in result.records} == {"complete"}
        assert_told_once(result)


def no_large_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))


def assert_told_once(result: Result) -> None:
    """Every trial begins and ends once in the events that MLflow is told."""
    ends: dict[int, int] = {}
    for _, event in Spool(result.folder.spool).read():
        if event["event"] == "end" and event["outcome"] != "failed":
            ends[event["trial"]] = ends.get(event["trial"], 0) + 1
    assert ends == {r.number: 1 for r in result.records}


def test_a_full_disk_under_the_events_alone_loses_no_trial(here: Path) -> None:
    file = study_file(here, "budget: {trials: 40}\n", "curve")
    folder = Folder(here / "mlruns" / "studies" / "s")
    folder.path.mkdir(parents=True)
    with mounted(here / "small", "size=8k") as done:
        folder.spool.symlink_to(here / "small" / "events.jsonl" if done else "/proc/version")
        clear(hpo("run", file), 0)
        assert states() == ["complete"] * 40


def test_a_torn_last_line_of_the_ledger_is_survived(here: Path) -> None:
    assert hpo("run", study_file(here), "-q").code == 0
    with study().folder.journal.open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"1","trial_id":2,"st')
    clear(hpo("show", "s"), 0)
    ended = hpo("run", "--resume", "--name", "s", "--trials", "5")
    clear(ended, 0)
    assert states() == ["complete"] * 5
    for line in study().folder.journal.read_text().splitlines():
        json.loads(line)


def test_a_damaged_line_inside_the_ledger_is_named_and_nothing_is_written(here: Path) -> None:
    assert hpo("run", study_file(here), "-q").code == 0
    journal = study().folder.journal
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], b"\x00\xffgarbage\n", *lines[4:]])
    journal.write_bytes(damaged)
    for command in (["show", "s"], ["run", "--resume", "--name", "s", "--trials", "9"]):
        clear(hpo(*command), 2, f"{journal}:4: this line of the ledger is damaged")
    assert journal.read_bytes() == damaged
    clear(hpo("list"), 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "objective is missing"), ("a: [", "not YAML"), ("objective: 3\n", "must be text")],
)
def test_a_damaged_spec_of_a_study_is_named(text: str, said: str, here: Path) -> None:
    assert hpo("run", study_file(here), "-q").code == 0
    spec = study().folder.spec
    spec.write_text(text)
    for command in ("show", "schedule"):
        clear(hpo(command, "s"), 2, str(spec), said)
    clear(hpo("run", "--resume", "--name", "s"), 2, str(spec), said)


def test_an_old_mlflow_file_store_is_explained_and_left_alone(here: Path) -> None:
    for number in "01":
        write(here / "mlruns" / number / "meta.yaml", "name: old")
    file = study_file(here, "mlflow: true\n")
    for command in (["run", file], ["check", file, "--no-probe"]):
        ended = hpo(*command)
        clear(ended, 2, "mlruns holds an old MLflow file store (folders 0/, 1/)")
        assert (
            "mlflow migrate-filestore --source mlruns --target sqlite:///mlruns/mlflow.db"
            in ended.err
        )
        assert "--mlruns runs2" in ended.err
    assert sorted(path.name for path in (here / "mlruns").iterdir()) == ["0", "1"]
    clear(hpo("run", file, "-q", "--no-mlflow"), 0)


# -- MLflow's server ----------------------------------------------------------------------------


class Stub(http.server.ThreadingHTTPServer):
    """A tracking server that answers what the sink asks, until it is told to break."""

    daemon_threads = True

    def __init__(self, breaks_after: int, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.left, self.artifacts = breaks_after, (folder / "artifacts").as_uri()
        self.seen: list[str] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = json.loads(self.rfile.read(length) or b"{}")
        self.server.seen.append(self.path)
        self.server.left -= 1
        if self.server.left < 0:
            self.send_error(503)
            return
        run = f"{len(self.server.seen):032x}"
        info = _run(run, self.server.artifacts)
        answers: dict[str, Any] = {
            "create": {"run": {"info": info, "data": {}}},
            "search": {"runs": [], "experiments": []},
        }
        self._answer(answers.get(self.path.rpartition("/")[2], {"run_info": {**info, **asked}}))

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        self.server.left -= 1
        if self.server.left < 0:
            self.send_error(503)
            return
        found = {"experiment_id": "1", "name": "x", "artifact_location": self.server.artifacts}
        info = _run(self.path.rpartition("=")[2], self.server.artifacts)
        self._answer(
            {
                "experiment": {**found, "lifecycle_stage": "active"},
                "run": {"info": info, "data": {}},
            }
        )

    def _answer(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _run(run: str, artifacts: str) -> dict[str, Any]:
    about = {"run_id": run, "run_uuid": run, "experiment_id": "1", "artifact_uri": artifacts}
    return {**about, "status": "RUNNING", "start_time": 1, "lifecycle_stage": "active"}


@contextmanager
def stub(breaks_after: int, folder: Path) -> Iterator[Stub]:
    server = Stub(breaks_after, folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_server_that_breaks_is_told_once_and_holds_nothing_up(
    share: float, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, in the middle, near the end: after this share of what it is asked in all."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    text = "mlflow: true\nbudget: {trials: 6}\n"
    whole = study_file(here / "whole", text, "curve", name="whole")
    with stub(10_000, here) as server:
        ended = hpo("run", whole, "--tracking-uri", server.uri)
        clear(ended, 0)
        assert "MLflow" not in ended.err
        asked = len(server.seen)
    with stub(round(share * asked), here) as server:
        ended = hpo("run", study_file(here, text, "curve"), "--tracking-uri", server.uri)
    clear(ended, 0, "MLflow has not received ", "Nothing is lost: they wait in ")
    assert ended.err.count("the study goes on; they are kept") == 1
    assert states() == ["complete"] * 6 and "best      trial" in ended.out
    assert_told_once(study())


def test_a_server_that_was_never_there_costs_seconds_at_most(here: Path) -> None:
    file = study_file(here, "mlflow: true\n")
    begun = time.monotonic()
    ended = hpo("run", file, "--tracking-uri", "http://127.0.0.1:9")
    clear(ended, 0, "MLflow does not take metrics: http://127.0.0.1:9 does not answer")
    assert states() == ["complete"] * 3 and time.monotonic() - begun < 30


@pytest.mark.slow
def test_what_a_server_missed_is_delivered_by_the_next_run(here: Path) -> None:
    """A real server: down at the start, up for the second run, which delivers the first as well."""
    file = study_file(here, "mlflow: true\nobjective_options: {steps: 4}\n", "curve")
    with real_server(here) as (uri, up):
        clear(hpo("run", file, "--tracking-uri", uri), 0, "MLflow has not received")
        up()
        ended = hpo("run", "--resume", "--name", "s", "--trials", "5", "--tracking-uri", uri)
        clear(ended, 0)
        assert "has not received" not in ended.err
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.search_experiments(filter_string="name LIKE '%curve'")[0]
        runs = client.search_runs([experiment.experiment_id], "tags.`hpo.study` = 's'")
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        assert len(children) == 5 and len(runs) == 6
        for run in children:
            history = client.get_metric_history(run.info.run_id, "val_loss")
            assert [metric.step for metric in history] == [1, 2, 3, 4]


@contextmanager
def real_server(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a server that is not there yet, and what brings it up."""
    import socket
    from contextlib import ExitStack

    from hpo import mlflowui

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:

        def up() -> None:
            database = f"sqlite:///{folder / 'server.db'}"
            serving = mlflowui.serve(database, folder / "artifacts", port, folder / "server.log")
            stack.enter_context(serving)

        yield f"http://127.0.0.1:{port}", up


# -- what came from elsewhere -------------------------------------------------------------------


def test_nothing_that_came_from_elsewhere_runs_code(here: Path) -> None:
    """A spec, a schedule, a journal and a checkpoint, each with a command to run in it."""
    target = here / "ran"
    command = f"touch {target}"
    evil = f"name: !!python/object/apply:os.system ['{command}']\nobjective: digits\n"
    clear(hpo("run", write(here / "evil.yaml", evil)), 2, "is not allowed in a study file")
    for value in (
        f"!!python/object/apply:os.system ['{command}']",
        f"$({command})",
        f"`{command}`",
    ):
        hpo("check", study_file(here), "--no-probe", "--set", f"name={value}")
    write(here / "evil.json", '{"format": 1, "kind": "hpo-schedule", "__reduce__": "os.system"}')
    clear(hpo("run", study_file(here), "--start-from", "evil.json"), 2, "evil.json")
    assert hpo("run", study_file(here), "-q").code == 0
    with study().folder.journal.open("a") as file:
        file.write('{"op_code":"cos\\nsystem\\n","worker_id":"x"}\n')
    ended = hpo("show", "s")
    assert ended.code in {0, 2} and "Traceback" not in ended.err
    assert not target.exists()


@pytest.mark.slow
def test_a_checkpoint_from_elsewhere_runs_no_code(here: Path) -> None:
    import pickle

    target = here / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {target}",)

    text = "objective: digits\nname: c\nworkers: 0\nmlflow: false\nspace: l2\n"
    file = write(here / "c.yaml", f"{text}budget: {{trials: 2, steps: 40}}\n")
    with start("run", file, "--json") as running:
        assert running.stdout is not None
        while '"measurement"' not in running.stdout.readline():
            pass
        running.kill()
    trials = here / "mlruns" / "studies" / "c" / "trials"
    left = sorted(trials.glob("*/seed-*.pt"))
    assert left
    for path in left:
        path.write_bytes(pickle.dumps(Evil()))
    ended = hpo("run", "--resume", "--name", "c")
    assert not target.exists() and "Traceback" not in ended.err
    assert ended.code in {0, 2, 3}


def test_the_environment_cannot_make_the_command_run_code(here: Path) -> None:
    environment = {**os.environ, "HPO_MLRUNS": "$(touch ran)", "COLUMNS": "-3", "TERM": "\x1b]"}
    for command in (["list"], ["--help"]):
        assert process(*command, env=environment).code == 0
    assert not (here / "ran").exists() and sys.executable
