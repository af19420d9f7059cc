"""What the ledger costs a chain of 640 strengths, beside a parameter for each of them in Optuna."""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _report import Report, Row, table

if TYPE_CHECKING:
    from hpo.problem import Problem
    from hpo.study import Study
    from objectives.training.measurement import Measurement

_TARGET = 5.0  # milliseconds of a measurement
_STEPS = 50  # accepted steps of a chain, as by default
_PARTS = ("asked for", "sent by the worker", "taken in by the driver", "ended")


def ledger(quick: bool) -> Report:
    """CPU time of a measurement of 640 strengths, from when the worker has it to when it is in the
    study's files and the worker may go on; and of a trial in SQLite with 640 parameters."""
    steps, chains, trials = (2, 1, 1) if quick else (_STEPS, 9, 3)
    taken, length = _ours(steps, chains)
    per_trial = {part: 1000 * statistics.median(times) for part, times in taken.items()}
    shares = {part: value / length for part, value in per_trial.items()}
    ours = 1000 * statistics.median(map(sum, zip(*taken.values(), strict=True))) / length
    theirs = 1000 * statistics.median(_sqlite(trials))
    lines = [[part, f"{per_trial[part]:.1f}", f"{shares[part]:.2f}"] for part in _PARTS]
    lines.append(["together", f"{ours * length:.1f}", f"{ours:.2f}"])
    header = [
        "journal and spool, 640 strengths",
        f"CPU ms of {length} measurements",
        "ms of one",
    ]
    rows = [
        Row("a measurement of 640 strengths, CPU", f"{ours:.2f} ms", "<= 5 ms", ours <= _TARGET),
        Row("a trial of 640 parameters in SQLite, CPU", f"{theirs:.0f} ms"),
        Row("SQLite over ours", f"{theirs / ours:.0f}x"),
    ]
    return Report([table(header, lines)], rows, {"parts": taken, "sqlite": theirs})


# -- ours -----------------------------------------------------------------------------------------


def _ours(steps: int, chains: int) -> tuple[dict[str, list[float]], int]:
    """CPU seconds of each part for every chain that is delivered, and its measurements."""
    from hpo.opening import open_for_driving
    from hpo.preparation import Launch, prepare
    from hpo.spec import StudySpec

    with tempfile.TemporaryDirectory() as place:
        spec = StudySpec.model_validate(
            {
                "name": "ledger",
                "objective": "logistic",
                "space": "l2",
                "sampler": "maid",
                "sampler_options": {"baseline": False},
                "minimize": "val_loss",
                "budget": {"trials": chains},
                "mlflow": False,
            }
        )
        _, folder, problem = prepare(spec, Launch(Path(place)))
        folder.path.mkdir(parents=True)
        chain = _chain(problem, steps)
        study = open_for_driving(problem, folder)
        try:
            study.begin()
            taken: dict[str, list[float]] = {part: [] for part in _PARTS}
            for _ in range(chains):
                for part, seconds in _delivered(study, chain).items():
                    taken[part].append(seconds)
        finally:
            study.close()
    return taken, len(chain)


def _chain(problem: Problem, steps: int) -> list[Measurement]:
    """So many measurements like the first that MAID makes, their strengths drawn: what they cost to
    keep does not depend on what they are."""
    from hpo.bilevel.implicit.maid import Descent, way
    from hpo.bilevel.implicit.measuring import descended

    space, rng = problem.space, random.Random(0)
    first = next(descended(problem.target, space, space.start, 0, way(Descent()), 1, None))
    low, high = (math.log(bound) for bound in (space["l2"].low, space["l2"].high))
    drawn = ([math.exp(rng.uniform(low, high)) for _ in range(640)] for _ in range(steps))
    return [
        replace(first, step=k, progress=k / steps, point={"l2": tuple(strengths)})
        for k, strengths in enumerate(drawn, start=1)
    ]


def _delivered(study: Study, chain: Sequence[Measurement]) -> dict[str, float]:
    """CPU seconds to ask for a trial, to send and to take in its measurements, and to end it, in
    the code of worker and driver, which here are one process with a line between its two ends."""
    from hpo.engines import Slots, _worker
    from hpo.engines._process import Worker
    from hpo.engines.optuna import _Pool, _Slot
    from hpo.interrupts import Interrupts
    from hpo.trial import Outcome, Plan, Travelled

    seconds = dict.fromkeys(_PARTS, 0.0)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        seconds[part] += time.process_time() - begun

    ours, theirs = Pipe()
    nobody: Any = None
    worker = Worker(nobody, ours, "worker", Path(), 0)
    pool = _Pool(study, Slots(workers=1), Interrupts())
    with timed("asked for"):
        plan = study.ask()
        assert plan is not None
        slot = _Slot({}, worker, {plan.number})
        worker.send({"run": [plan.to_json()]})
        begun = Plan.from_json(_worker._receive(theirs)["run"][0])
    path = Travelled(begun)
    for measurement in chain:
        path.add(measurement)
        with timed("sent by the worker"):
            told = {"trial": plan.number, "measurement": measurement.to_json()}
            _worker._send(theirs, told)
        with timed("taken in by the driver"):
            pool._handle(slot, worker.receive() or {})
        with timed("sent by the worker"):
            _worker._receive(theirs)
    with timed("ended"):
        outcome = Outcome("complete", extra=path.found())
        message = {"trial": plan.number, "outcome": outcome.to_json(), "leaves": False}
        sender = threading.Thread(target=_worker._send, args=(theirs, message))  # more than a pipe
        sender.start()  # holds
        pool._handle(slot, worker.receive() or {})
        sender.join()
    return seconds


# -- theirs ---------------------------------------------------------------------------------------


def _sqlite(trials: int) -> list[float]:
    """CPU seconds of trials with a parameter for each of 640 strengths and their gradient."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        storage = optuna.storages.RDBStorage(f"sqlite:///{place}/study.db")
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
        taken = []
        for _ in range(trials):
            begun = time.process_time()
            trial = study.ask()
            found = [trial.suggest_float(f"l2[{k}]", 1e-6, 1e3, log=True) for k in range(640)]
            trial.set_user_attr("gradient", found)
            study.tell(trial, 1.0)
            taken.append(time.process_time() - begun)
        storage.engine.dispose()
    return taken
