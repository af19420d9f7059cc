"""What an earlier driver left: trials in the ledger, events in the spool, checkpoints on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import events, ledger
from hpo.folder import Folder, replace_json
from hpo.ledger import TrialRecord
from hpo.problem import Problem
from hpo.spool import Spool
from hpo.tally import Tally
from hpo.trial import Outcome, Plan
from search_spaces.schedule import Schedule

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

CHECKPOINTS = "seed-*.pt"
LINEAGE = "lineage.json"  # beside them, of a member of a population that took another over


@dataclass
class Delivered:
    """The latest attempt of a trial that the spool knows, and the steps it holds of it."""

    attempt: int = 0
    announced: bool = False
    ended: bool = False
    best: bool = False
    steps: set[int] = field(default_factory=set)


@dataclass
class Stock:
    """What a study has behind it.

    `left_open`: trials that were interrupted; `owed`: events of trials that ended in the ledger but
    whose driver died before it could tell; `best`: the best trial; `ended`: trials that are over.
    """

    tally: Tally
    left_open: list[tuple[FrozenTrial, Delivered]] = field(default_factory=list)
    owed: list[dict[str, Any]] = field(default_factory=list)
    best: TrialRecord | None = None
    ended: set[int] = field(default_factory=set)


def take_stock(trials: Sequence[FrozenTrial], spool: Spool, problem: Problem) -> Stock:
    """Counts what the ledger holds and compares it with what the spool holds."""
    stock = Stock(Tally(problem.spec.direction))
    known = delivered(spool) if trials else {}
    for trial in trials:
        if trial.state.name == "WAITING":
            continue
        stock.tally.asked += 1
        found = known.get(trial.number, Delivered())
        if trial.state.name == "RUNNING":
            stock.left_open.append((trial, found))
            continue
        record = ledger.record(trial, problem.space)
        is_best = stock.tally.end(record.state, record.score, record.message)
        stock.best = record if is_best else stock.best
        stock.ended.add(record.number)
        if not found.ended:
            if is_best and not found.best and record.value is not None:
                stock.owed.append(events.best(record.number, record.value))
            stock.owed += _untold(record, found, problem)
    return stock


def tidy(folder: Folder, stock: Stock, problem: Problem) -> None:
    """Brings a study's other files to what its ledger says: checkpoints, schedule.json."""
    trials = folder.trial(0).parent
    for path in trials.iterdir() if trials.is_dir() else ():
        if path.name.isdecimal() and int(path.name) in stock.ended:
            forget_checkpoint(str(path))
    if stock.best is not None:
        replace_json(folder.schedule, _schedule(stock.best, problem))


def delivered(spool: Spool) -> dict[int, Delivered]:
    """What the spool holds of each trial's latest attempt."""
    found: dict[int, Delivered] = {}
    for _, event in spool.read():
        if event["event"] == "best":
            found.setdefault(event["trial"], Delivered()).best = True
        if "trial" not in event or "attempt" not in event:
            continue
        known = found.setdefault(event["trial"], Delivered())
        if event["attempt"] > known.attempt:
            known = found[event["trial"]] = Delivered(event["attempt"])
        if event["event"] == "start":
            known.announced = True
        elif event["event"] == "measurement":
            known.steps.add(event["step"])
        elif event["event"] == "exploit":  # what comes after that step is measured anew
            known.steps = {step for step in known.steps if step <= event["step"]}
        elif event["event"] == "end":
            known.ended = True
            known.steps.clear()
    return found


def has_checkpoint(folder: str | None) -> bool:
    """Whether a trial can go on from where it was."""
    return folder is not None and any(Path(folder).glob(CHECKPOINTS))


def forget_checkpoint(folder: str | None) -> None:
    """Removes the checkpoints of a trial that ended, and its folder if nothing else is in it."""
    if folder is None or not Path(folder).is_dir():
        return
    for file in Path(folder).glob(f"{CHECKPOINTS}*"):  # the unfinished ones too
        file.unlink(missing_ok=True)
    (Path(folder) / LINEAGE).unlink(missing_ok=True)
    if not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def _untold(record: TrialRecord, found: Delivered, problem: Problem) -> list[dict[str, Any]]:
    """The events of an ended trial that are missing from the spool, apart from its curve."""
    told: list[dict[str, Any]] = []
    if not found.announced:
        schedule = Schedule.from_json(_schedule(record, problem))
        plan = Plan(record.number, found.attempt, schedule, problem.spec.seed)
        told.append(events.start(problem.spec, plan))
    outcome = Outcome(
        record.state,  # type: ignore[arg-type]
        record.reason,  # type: ignore[arg-type]
        record.message,
        seconds=record.seconds,
        worker=record.worker,
    )
    return [*told, events.end(record.number, found.attempt, outcome, record.metrics)]


def _schedule(record: TrialRecord, problem: Problem) -> dict[str, Any]:
    if record.schedule is not None:
        return dict(record.schedule)
    return problem.schedule(record.coordinates).to_json()
