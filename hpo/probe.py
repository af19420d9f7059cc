"""Three steps of one trial, in a process of their own, to tell what a study will cost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from hpo.errors import HpoError
from hpo.spec import StudySpec

if TYPE_CHECKING:
    from hpo.problem import Problem

STEPS = 3
LONGEST = 300.0


@dataclass(frozen=True)
class Probe:
    """What the probe measured. `seconds_per_step` includes no evaluation; None for functions,
    whose steps are their own. `seconds` is until the last of the three steps or the first report.
    `memory` is the peak of the process, in bytes."""

    steps: int
    seconds: float
    seconds_per_step: float | None
    evaluation_seconds: float | None
    memory: int
    device: str
    metrics: dict[str, float]


def probe(spec: StudySpec) -> Probe:
    """Trains three steps of the start point. Raises HpoError with what the objective raised."""
    request = json.dumps(spec.plain())
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "hpo.probe"],
            input=json.dumps({"spec": request, "path": sys.path}),
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HpoError(
            f"the probe of {spec.objective} took longer than {LONGEST:.0f} s",
            hint="a function that reports (yields) often can be probed; --no-probe skips this",
            code="slow-probe",
        ) from None
    answer = ended.stdout.rpartition("\n@probe ")[2].strip()
    if not answer:
        raise HpoError(
            f"the probe of {spec.objective} ended with exit code {ended.returncode}",
            hint=ended.stderr.strip()[-2000:],
            code="failed-probe",
        )
    found = json.loads(answer)
    if "error" in found:
        raise HpoError(
            f"the probe of {spec.objective} failed: {found['error']}",
            hint=found["traceback"].strip(),
            code="failed-probe",
        )
    return Probe(**found)


def main() -> None:
    given = json.loads(sys.stdin.read())
    sys.path.extend(entry for entry in given["path"] if entry not in sys.path)
    spec = StudySpec.model_validate(json.loads(given["spec"]))
    print("\n@probe " + json.dumps(_measure(spec)), flush=True)


def _measure(spec: StudySpec) -> dict[str, object]:
    from hpo import problem as problems
    from hpo.trial import Plan, default_device, failure, run_trial

    try:
        problem = problems.load(spec)
        if problem.training is not None:
            short = replace(problem.training, steps=STEPS, evaluations=1, warmup=0.0)
            problem = replace(problem, training=short)
        schedule = problem.schedule(problem.space.start_coordinates())
        plan = Plan(0, 0, schedule.to_json(), spec.seed)
        run_once = run_trial(problem, plan)
        started = time.perf_counter()
        measurement = next(run_once)
        seconds = time.perf_counter() - started
        run_once.close()
    except BaseException as error:
        outcome = failure(error)
        return {"error": outcome.message, "traceback": outcome.traceback}
    device = default_device() if problem.is_task else "its own"
    per_step, evaluation = _rates(problem) if problem.is_task else (None, None)
    return asdict(
        Probe(
            measurement.step,
            seconds,
            per_step,
            evaluation,
            _peak_memory(),
            device,
            measurement.metrics,
        )
    )


def _rates(problem: Problem) -> tuple[float, float]:
    """Seconds of one step and of one evaluation, from runs of 3 and of 30 steps."""
    from hpo.trial import Plan, run_trial

    def timed(steps: int) -> float:
        assert problem.training is not None
        short = replace(problem.training, steps=steps, evaluations=1, warmup=0.0)
        schedule = problem.schedule(problem.space.start_coordinates())
        plan = Plan(0, 0, schedule.to_json(), problem.spec.seed)
        started = time.perf_counter()
        for _ in run_trial(replace(problem, training=short), plan):
            pass
        return time.perf_counter() - started

    few = timed(STEPS)
    more = 10 if few > 5 else 30
    many = timed(more)
    per_step = max(0.0, (many - few) / (more - STEPS))
    return per_step, max(0.0, few - STEPS * per_step)


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
