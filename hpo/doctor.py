"""What `hpo doctor` looks at: everything outside a study that can keep it from running well.

Nothing is changed or downloaded. What could hang or crash (a GPU driver) is asked in a process
of its own, with a time limit.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hpo.engines._ray.address import has_port, reach
from hpo.errors import HpoError
from hpo.masking import without_password
from hpo.tracking import cursor as cursors
from hpo.tracking.address import environment_uri, old_file_store, resolve_uri
from hpo.tracking.health import examine
from hpo.tracking.server import ask

# The versions the test-suite is run with, as in constraints.txt; a test compares the two.
TESTED = {
    "torch": "2.13.0",
    "optuna": "5.0.0",
    "mlflow": "3.17.2",
    "ray": "2.60.0",
    "kornia": "0.9.0",
    "pandas": "3.1.1",
    "numpy": "2.4.6",
    "click": "8.5.1",
}
_OPTIONAL = {"ray": "ray", "kornia": "images"}  # package: the extra that brings it
_GIB = 1024**3

_DEVICES = """
import json, torch
cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "cuda": [[device.name, device.total_memory] for device in cuda],
    "mps": torch.backends.mps.is_available(),
    "built": torch.version.cuda or torch.version.hip or "",
    "threads": torch.get_num_threads(),
}))
"""


@dataclass(frozen=True)
class Check:
    """One finding: `status` says whether it is fine, `hint` what to do if it is not."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    hint: str = ""


def checks(mlruns: Path, tracking_uri: str | None = None) -> list[Check]:
    """All findings about this machine, this installation, the folder `mlruns`, and the place
    `tracking_uri` or the environment names for runs."""
    looks: dict[str, Callable[[], list[Check]]] = {
        "python": python,
        "packages": packages,
        "devices": devices,
        "machine": machine,
        "folder": partial(writable, mlruns),
        "file store": partial(file_store, mlruns),
        "mlflow database": partial(database, mlruns),
        "mlflow server": partial(tracking, tracking_uri),
        "ray cluster": ray,
        "fashion_mnist": fashion_mnist,
        "studies": partial(studies, mlruns),
    }
    return [check for name, look in looks.items() for check in _safely(name, look)]


def _safely(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """A look that fails itself is a finding, not the end of the others."""
    try:
        return look()
    except Exception as error:  # the point of this command is to say what is broken
        return [Check(name, "warn", f"could not be looked at: {type(error).__name__}: {error}")]


def python() -> list[Check]:
    """The interpreter."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return [Check("python", "ok", text)]


def packages() -> list[Check]:
    """The packages that decide how a study runs, against the versions they were tested in."""
    return [_package(name, tested) for name, tested in TESTED.items()]


def _package(name: str, tested: str) -> Check:
    try:
        installed = version(name)
    except PackageNotFoundError:
        if name in _OPTIONAL:
            extra = f'pip install "hpo-schedules[{_OPTIONAL[name]}]"'
            return Check(name, "ok", "not installed (optional)", extra)
        return Check(name, "fail", "not installed", "pip install hpo-schedules")
    if installed.partition("+")[0].split(".")[:2] == tested.split(".")[:2]:
        return Check(name, "ok", installed)
    hint = f'pip install "{name}=={tested}"  gives the tested one'
    return Check(name, "warn", f"{installed}, tested with {tested}", hint)


def devices() -> list[Check]:
    """What torch can compute on."""
    asked = subprocess.run(
        [sys.executable, "-c", _DEVICES], capture_output=True, text=True, timeout=120, check=False
    )
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        return [Check("devices", "fail", f"torch does not start: {last}", "reinstall torch")]
    said = json.loads(asked.stdout.strip().splitlines()[-1])
    cuda = [f"{name} {memory / _GIB:.0f} GiB" for name, memory in said["cuda"]]
    if cuda:
        return [Check("devices", "ok", f"{len(cuda)} GPU: " + ", ".join(cuda))]
    if said["mps"]:
        return [Check("devices", "ok", "Apple GPU (mps)")]
    text = f"cpu, {said['threads']} threads"
    if shutil.which("nvidia-smi"):
        what = f"a torch built for {said['built']}" if said["built"] else "a torch without GPU"
        hint = "see pytorch.org for the build that fits this driver"
        return [Check("devices", "warn", f"{text}; this machine has a GPU, but {what}", hint)]
    return [Check("devices", "ok", text)]


def machine() -> list[Check]:
    """Cores and memory that are really ours."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = min(_memory_limits(), default=0)
    text = f"{cores} cores, {memory / _GIB:.1f} GiB memory"
    if memory < 2 * _GIB:
        return [Check("machine", "warn", text, "a worker takes about 0.5 GiB: use --workers 1")]
    return [Check("machine", "ok", text)]


def _memory_limits() -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / limit
        text = path.read_text().strip() if path.exists() else ""
        if text.isdecimal():
            yield int(text)


def writable(mlruns: Path) -> list[Check]:
    """Whether runs can be written, and how many."""
    folder = mlruns.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        text = f"{mlruns}: cannot write: {error.strerror}"
        return [Check("folder", "fail", text, "give write access, or choose --mlruns DIR")]
    free = shutil.disk_usage(folder).free
    text = f"{mlruns}: {free / _GIB:.1f} GiB free"
    if free < _GIB:
        return [Check("folder", "warn", text, "checkpoints and metrics need room")]
    return [Check("folder", "ok", text)]


def file_store(mlruns: Path) -> list[Check]:
    """A finding only if the folder holds runs in MLflow's old format."""
    told = old_file_store(mlruns)
    if told is None:
        return []
    text, _, hint = told.partition("\n")
    return [Check("file store", "warn", text, hint)]


def database(mlruns: Path) -> list[Check]:
    """MLflow's database: can it be read, does its schema fit the installed MLflow."""
    file = mlruns / "mlflow.db"
    if not file.exists():
        return [Check("mlflow database", "ok", f"{file}: none yet, the first study creates it")]
    health = examine(file)
    if health.trouble:
        return [Check("mlflow database", "fail", f"{file} {health.trouble}", health.hint)]
    text = f"{file}: runs {health.runs}, experiments {health.experiments}"
    if health.elsewhere:
        text += f"; artifacts of {', '.join(health.elsewhere[:3])} are in another folder"
        hint = "the folder was moved: new artifacts go to the old place, move it back to see both"
        return [Check("mlflow database", "warn", text, hint)]
    return [Check("mlflow database", "ok", f"{text}, schema {health.schema}")]


def tracking(uri: str | None) -> list[Check]:
    """The place named for runs: does a server answer, in which version, and let us in. No finding
    if none is named."""
    try:
        place = resolve_uri(uri) if uri else environment_uri()
    except HpoError as error:
        return [Check("mlflow server", "fail", error.message, error.hint)]
    if place is None:
        return []
    told = without_password(place)
    if not place.startswith("http"):
        return [Check("mlflow server", "ok", f"{told}: no server of its own, not looked at")]
    answer = ask(place)
    if answer.trouble is not None:
        hint = answer.trouble.hint or "start it, or correct --tracking-uri or MLFLOW_TRACKING_URI"
        return [Check("mlflow server", "fail", answer.trouble.text, hint)]
    ours, theirs = version("mlflow"), answer.version
    text = f"{told} answers, MLflow {theirs or 'of a version it does not tell'}"
    if theirs and theirs.split(".")[0] != ours.split(".")[0]:
        hint = f"this is MLflow {ours}: use the same first number on both sides"
        return [Check("mlflow server", "warn", text, hint)]
    return [Check("mlflow server", "ok", text)]


def ray() -> list[Check]:
    """Whether a Ray cluster that is named in the environment answers."""
    address = os.environ.get("RAY_ADDRESS", "")
    if find_spec("ray") is None or not address:
        return []
    if not has_port(address):
        return [Check("ray cluster", "ok", f"RAY_ADDRESS={address}")]
    try:
        reach(address, 3)
    except OSError as error:
        hint = "start it (ray start --head), or unset RAY_ADDRESS to use this machine only"
        return [Check("ray cluster", "fail", f"{address} does not answer: {error}", hint)]
    return [Check("ray cluster", "ok", f"{address} answers")]


def fashion_mnist() -> list[Check]:
    """Whether the image data set is on this machine."""
    try:
        data = importlib.import_module("objectives.data.fashion_mnist")
        return [Check("fashion_mnist", "ok", str(data.find()))]
    except HpoError as error:
        text = "not on this machine (only objective fashion_mnist needs it)"
        return [Check("fashion_mnist", "warn", text, error.hint)]


def studies(mlruns: Path) -> list[Check]:
    """Studies that run, that a killed process left behind, or that MLflow has not seen whole."""
    from hpo.folder import studies as folders
    from hpo.lock import holder

    found: list[Check] = []
    for study in folders(mlruns):
        name = f"study {study.name}"
        driver = holder(study.path)
        if driver is not None:
            found.append(Check(name, "ok", f"is running (pid {driver.get('pid', '?')})"))
            continue
        if (study.path / "driver.json").exists():
            hint = f"continue: hpo run --resume --name {study.name}"
            found.append(Check(name, "warn", "its process ended without closing it", hint))
        cursor = cursors.read(study.cursor)
        size = study.spool.stat().st_size if study.spool.exists() else 0
        if cursor is not None and cursor.offset < size:
            hint = "they are kept, and go out with the next hpo run --resume or hpo ui"
            found.append(Check(name, "warn", "MLflow has not received its last events", hint))
    return found or [Check("studies", "ok", f"{len(folders(mlruns))} in {mlruns}, none left open")]
