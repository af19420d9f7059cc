"""Running small studies in tests: specs, launches, and tables to compare bit for bit."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpo.folder import Folder, read_spec
from hpo.launch import launch
from hpo.opening import open_for_driving
from hpo.preparation import Launch, prepare, spec_from_keywords
from hpo.result import Result
from hpo.spec import StudySpec
from hpo.study import Study

OBJECTIVES = Path(__file__).with_name("toy_objectives.py")
PACKED = Path(__file__).with_name("toy_packed.py")
X = {"x": {"low": 0.0, "high": 1.0}}


def spec(objective: str = "curve", **keywords: Any) -> StudySpec:
    """A spec of a toy objective: in this process, without MLflow, 4 trials, unless said."""
    reference = objective if ":" in objective else f"{OBJECTIVES}:{objective}"
    defaults: dict[str, Any] = {"name": "s", "mlflow": False, "workers": 0, "trials": 4}
    return spec_from_keywords(objective=reference, **{**defaults, **keywords})


def run(mlruns: Path, objective: str = "curve", *, resume: bool = False, **keywords: Any) -> Result:
    """Runs a study and gives its result."""
    return launch(spec(objective, **keywords), Launch(mlruns, resume, warn=_fail))


def resume(mlruns: Path, name: str = "s", **keywords: Any) -> Result:
    """Continues a study with what its folder says, and what is changed here."""
    stored = Folder(mlruns / "studies" / name)
    changed = spec_from_keywords(name=name, objective=read_spec(stored).objective, **keywords)
    return launch(changed, Launch(mlruns, True, warn=_fail))


def opened(mlruns: Path, objective: str = "curve", **keywords: Any) -> Study:
    """A study opened for driving, for tests that play the engine."""
    described = spec(objective, **keywords)
    again = Folder(mlruns.absolute() / "studies" / described.name).exists()
    _, folder, problem = prepare(described, Launch(mlruns, again))
    folder.path.mkdir(parents=True, exist_ok=True)
    study = open_for_driving(problem, folder, again)
    study.begin()
    return study


def table(result: Result) -> list[tuple[Any, ...]]:
    """What must be equal, bit for bit, however a study came to its end."""
    return [
        (r.number, r.state, r.value, r.holdout, r.step, dict(r.coordinates), dict(r.metrics))
        for r in result.records
    ]


def rounded(result: Result) -> list[tuple[Any, ...]]:
    """What a study whose trials went together has in common with one in which each went alone."""
    return [
        (n, state, pytest.approx(value, rel=1e-4), step, knobs, sorted(metrics))
        for n, state, value, _, step, knobs, metrics in table(result)
    ]


def events(result: Result, kind: str = "") -> list[dict[str, Any]]:
    """The events in a study's spool, of one kind if said."""
    lines = result.folder.spool.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [event for event in found if not kind or event["event"] == kind]


def outcomes(result: Result) -> list[str]:
    return [record.state for record in result.records]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children(pid: int | None = None) -> list[int]:
    """The processes that a process has started and that are there, zombies too."""
    pid = os.getpid() if pid is None else pid
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def until(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Waits for something another process does; fails if it does not happen."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def _fail(text: str) -> None:
    raise AssertionError(text)
