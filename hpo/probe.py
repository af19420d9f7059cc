"""Three steps of one trial, in a process of their own, to tell what a study will cost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.engines import Slots
from hpo.errors import HpoError
from hpo.spec import StudySpec

if TYPE_CHECKING:
    from hpo.problem import Problem

STEPS = 3
LONGEST = 300.0
RATE_SECONDS = 1.0  # of training by which the time of a step is told
PATIENCE = 20.0  # seconds after which no further report of a function is waited for


@dataclass(frozen=True)
class Probe:
    """What the probe measured.

    `steps` of a task, or reports of a function, took `seconds`; a whole trial will take
    `trial_seconds`, None where a function does not tell how far it is. `memory` is the peak of the
    process, in bytes; `metrics` what was measured last.
    """

    steps: int
    seconds: float
    trial_seconds: float | None
    memory: int
    device: str
    metrics: dict[str, float]


def probe(problem: Problem) -> Probe:
    """Trains three steps at the start values. Raises HpoError with what the objective raised."""
    spec = problem.spec
    with tempfile.TemporaryDirectory(prefix="hpo-probe-") as folder:
        answer = Path(folder) / "answer.json"
        request = {"spec": spec.plain(), "path": [*sys.path], "answer": str(answer)}
        code, said = _run(json.dumps(request), _environment(spec), Path(folder) / "output.txt")
        found = json.loads(answer.read_text()) if answer.exists() else None
    if code is None:
        raise HpoError(
            f"the probe of {spec.objective} took longer than {LONGEST:.0f} s",
            hint="a function that reports (yields) often can be probed; --no-probe skips this",
            code="slow-probe",
        )
    if found is None:
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise HpoError(
            f"the probe of {spec.objective} {ended}", hint=said[-2000:], code="failed-probe"
        )
    if "error" in found:
        raise HpoError(
            f"the probe of {spec.objective} failed: {found['error']}",
            hint=found["traceback"].strip(),
            code="failed-probe",
        )
    return Probe(**found)


def _environment(spec: StudySpec) -> dict[str, str]:
    """The device and the threads that a worker of this study gets; on this machine, also if the
    study will run elsewhere."""
    from hpo import engines
    from hpo.engines._devices import environments, visible_gpus
    from hpo.preparation import slots

    wanted = slots(spec)
    if engines.load(spec.engine).elsewhere:
        wanted = Slots(1, min(wanted.gpus_per_trial, len(visible_gpus())))
    return {**os.environ, **(environments(wanted)[0] if wanted.workers else {})}


def _run(request: str, environment: dict[str, str], output: Path) -> tuple[int | None, str]:
    """Exit code of the probe's process, None if it took too long, and what it printed."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hpo.probe"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(request.encode(), timeout=LONGEST)
        code = process.poll()
    finally:  # whatever the objective has started ends with it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - 4000))
        return code, file.read().decode(errors="replace").strip()


def main() -> None:
    given = json.loads(sys.stdin.read())
    sys.path.extend(entry for entry in given["path"] if entry not in sys.path)
    found = _measure(StudySpec.model_validate(given["spec"]))
    Path(given["answer"]).write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # a thread or an exit handler of the objective's holds nothing up


def _measure(spec: StudySpec) -> dict[str, object]:
    from hpo import problem as problems
    from hpo.trial import failure

    try:
        problem = problems.load(spec.model_copy(update={"seeds": 1}))
        measured = _task(problem) if problem.is_task else _function(problem)
    except BaseException as error:
        outcome = failure(error)
        return {"error": outcome.message, "traceback": outcome.traceback}
    return asdict(measured)


def _function(problem: Problem) -> Probe:
    """Up to three reports, and how long a trial is by the progress between them."""
    reports: list[tuple[float, Any]] = []
    started = time.perf_counter()
    whole = None
    with contextlib.closing(_trial(problem)) as run:
        for measurement in run:
            reports.append((time.perf_counter() - started, measurement))
            if len(reports) == STEPS or reports[-1][0] > PATIENCE:
                break
        else:  # it is over: a function that returns, or one of few reports
            whole = time.perf_counter() - started
    (begin, first), (end, last) = reports[0], reports[-1]
    if whole is None and last.progress > first.progress:
        whole = (end - begin) / (last.progress - first.progress)
    return Probe(len(reports), end, whole, _peak_memory(), "cpu", last.metrics)


def _task(problem: Problem) -> Probe:
    """Three steps, and what a trial takes by runs of 3 and of many more steps."""
    from hpo.trial import default_device

    training = problem.training
    assert training is not None
    seconds, metrics = _timed(problem, STEPS)  # this run also warmed everything up
    few = min(_timed(problem, STEPS)[0] for _ in range(2))
    more = min(max(round(RATE_SECONDS * STEPS / few), 10), 300)
    many = min(_timed(problem, more)[0] for _ in range(2))
    per_step = max(0.0, (many - few) / (more - STEPS))
    evaluation = max(0.0, few - STEPS * per_step)
    trial = training.steps * per_step + len(training.evaluation_steps()) * evaluation
    return Probe(STEPS, seconds, trial, _peak_memory(), default_device(), metrics)


def _timed(problem: Problem, steps: int) -> tuple[float, dict[str, float]]:
    assert problem.training is not None
    short = replace(problem.training, steps=steps, evaluations=1, warmup=0.0)
    started = time.perf_counter()
    metrics: dict[str, float] = {}
    for measurement in _trial(replace(problem, training=short)):
        metrics = measurement.metrics
    return time.perf_counter() - started, metrics


def _trial(problem: Problem) -> Any:
    from hpo.trial import follow

    schedule = problem.schedule(problem.space.start_coordinates())
    return follow(problem, schedule, problem.spec.seed)


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
