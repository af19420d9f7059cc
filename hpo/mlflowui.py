"""What `hpo ui` needs: MLflow's server on the right database, and links that show the runs.

MLflow draws only the runs that are expanded in its table, so its landing page shows little of a
study. The links made here open the pages that do: trials side by side, and one run's curves with
the knobs under the losses. Building them needs no MLflow, only the study's cursor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, urlencode
from urllib.request import urlopen

from hpo.errors import Unavailable
from hpo.tracking import cursor as cursors
from hpo.tracking.address import is_server, resolve_uri, without_login

HOST = "127.0.0.1"
_MOST_COMPARED = 20  # runs on one comparison page; it is slow above a hundred
_MOST_DRAWN = 5  # curves over each other that an eye can tell apart

# MLflow opens in a view for language models; this asks for the one about training.
_TRAINING = {"workflowType": "machine_learning"}

# The server is a family of processes. A helper in their group ends them all when the pipe to us
# closes, which it does however we die.
_GROUP = 'exec 3<&0; "$@" 3<&- & server=$!; (read _ <&3; kill -KILL 0) & wait $server'


@dataclass(frozen=True)
class StudyRuns:
    """Where a study is in MLflow: its own run, and its best trials' runs, the best first."""

    study: str
    experiment: str
    experiment_id: str
    parent: str
    ranked: tuple[str, ...]
    knobs: tuple[str, ...]
    metric: str


def study_runs(cursor: Path, uri: str) -> StudyRuns | None:
    """The runs of the study whose cursor file this is in the store at `uri`; None if there are
    none yet."""
    found = cursors.read(cursor)
    store = cursors.fingerprint(resolve_uri(uri))
    if found is None or not found.parent or found.store != store:
        return None
    ranked = [run for _, run in sorted(found.ranks.values())]
    unranked = [run.id for run in found.runs.values() if run.id not in ranked]
    return StudyRuns(
        found.study,
        found.experiment,
        found.experiment_id,
        found.parent,
        tuple((ranked or unranked)[:_MOST_COMPARED]),
        tuple(found.knobs),
        found.metric,
    )


def trials_link(base: str, study: StudyRuns) -> str | None:
    """The page that compares the study's best trials; None if it has none yet."""
    return compare_link(base, study.ranked, [study.experiment_id]) if study.ranked else None


def studies_link(base: str, studies: Sequence[StudyRuns]) -> str:
    """The page that compares studies by their own runs, which carry their best trials' curves."""
    experiments = sorted({study.experiment_id for study in studies})
    return compare_link(base, [study.parent for study in studies], experiments)


def compare_link(base: str, runs: Sequence[str], experiments: Sequence[str]) -> str:
    """The page that compares exactly these runs: values, parallel coordinates, scatter, contour."""
    query = {
        "runs": _packed(list(runs)),
        "experiments": _packed(list(experiments)),
        **_TRAINING,
    }
    return f"{base}/#/compare-runs?{urlencode(query, quote_via=quote)}"


def curves_link(base: str, study: StudyRuns) -> str | None:
    """The page that draws the best trials' curves over each other: the metric at first, any knob
    h/... when chosen as Y-axis."""
    if not study.ranked:
        return None
    query = {
        "runs": _packed(study.ranked[:_MOST_DRAWN]),
        "metric": _packed(study.metric),
        "plot_metric_keys": _packed([study.metric]),
        "experiments": _packed([study.experiment_id]),
        "x_axis": "step",
        **_TRAINING,
    }
    return f"{base}/#/metric?{urlencode(query, quote_via=quote)}"


def charts_link(base: str, study: StudyRuns) -> str:
    """The charts of the study's run: the best trial's losses, and its knobs over the same steps."""
    place = f"experiments/{study.experiment_id}/runs/{study.parent}/model-metrics"
    return f"{base}/#/{place}?{urlencode(_TRAINING)}"


def runs_link(base: str, study: StudyRuns) -> str:
    """The table of the study's runs in its experiment."""
    query = {"searchFilter": _filter(study.study), **_TRAINING}
    return f"{base}/#/experiments/{study.experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def text(base: str, store: str, studies: Sequence[StudyRuns]) -> str:
    """What `hpo ui` prints: where MLflow is, and what to open there for the first of `studies`."""
    lines = [f"MLflow at {base}  ({store})"]
    for study in studies[:1]:
        lines += _for_study(base, study)
    if len(studies) > 1:
        names = ", ".join(study.study for study in studies)
        lines += [f"  compare studies     {names}", f"    {studies_link(base, studies)}"]
    if not studies:
        lines.append("  no runs yet         they appear here while a study runs:  hpo run")
    return "\n".join(lines)


def _for_study(base: str, study: StudyRuns) -> list[str]:
    lines = [f"  compare trials      experiment {study.experiment}, filter  {_filter(study.study)}"]
    trials = trials_link(base, study)
    lines.append(f"    {trials or runs_link(base, study)}")
    curves = curves_link(base, study)
    if curves:
        lines += [f"  their curves        {study.metric}; choose h/... as Y-axis", f"    {curves}"]
    knobs = ", ".join(study.knobs[:6]) + (", ..." if len(study.knobs) > 6 else "")
    if knobs:
        lines += [
            f"  see the schedule    charts {knobs} over {study.metric} (same step axis)",
            f"    {charts_link(base, study)}",
        ]
    return lines


def _packed(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _filter(study: str) -> str:
    return f"tags.\"hpo.study\" = '{study}'"


def command(uri: str, artifact_root: Path, port: int) -> list[str]:
    """The command line of MLflow's server on the store at `uri`, for this machine only."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri),
        *("--artifacts-destination", artifact_root.absolute().as_uri()),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]


@contextmanager
def serve(
    uri: str, artifact_root: Path, port: int, log: Path, patience: float = 180.0
) -> Iterator[str]:
    """MLflow's server as long as the block runs; gives the address of its pages once they answer.

    What the server says goes to the file `log`. Raises Unavailable if the port is taken or the
    server does not come up within `patience` seconds. A `uri` that is a server already is given
    back without its password: whoever opens a page is asked for it by the browser.
    """
    if is_server(uri):
        yield without_login(uri)
        return
    _check_port(port)
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["sh", "-c", _GROUP, "sh", *command(uri, artifact_root, port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **quiet},
            start_new_session=True,
        )
    try:
        with _ends_on_signals():
            base = f"http://{HOST}:{port}"
            _wait_until_healthy(server, base, log, patience)
            yield base
    finally:
        _end(server)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Unavailable(
                f"port {port} on {HOST}: {reason.lower()}",
                hint=f"choose another: hpo ui --port {port + 1 if port < 65535 else 5001}",
                code="port",
                found=port,
            ) from None


def _wait_until_healthy(
    server: subprocess.Popen[bytes], base: str, log: Path, patience: float
) -> None:
    until = time.monotonic() + patience
    while server.poll() is None and time.monotonic() < until:
        with suppress(URLError, OSError), urlopen(f"{base}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    why = "did not answer in time" if server.poll() is None else "ended at once"
    last = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise Unavailable(
        f"MLflow's server {why}: " + " / ".join(line.strip() for line in last),
        hint=f"all it said is in {log}; see also: hpo doctor",
        code="mlflow-server",
    )


@contextmanager
def _ends_on_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into an ordinary end, so that the server is ended as well."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError):  # not the main thread: its owner decides
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ends the server's whole group and waits for it."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(5)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    if server.stdin is not None:
        server.stdin.close()
    server.wait()
