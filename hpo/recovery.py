"""What is left of a trial that was interrupted: its events in the spool, its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpo.spool import Spool

CHECKPOINTS = "seed-*.pt"


@dataclass(frozen=True)
class Delivered:
    """The latest attempt of a trial that the spool knows, and the steps it holds of it."""

    attempt: int = 0
    announced: bool = False
    steps: frozenset[int] = frozenset()


def delivered(spool: Spool, number: int) -> Delivered:
    """What the spool holds of a trial's latest attempt."""
    attempt, announced, steps = 0, False, set[int]()
    for _, event in spool.read():
        if event.get("trial") != number or "attempt" not in event:
            continue
        if event["attempt"] > attempt:
            attempt, announced, steps = event["attempt"], False, set()
        if event["event"] == "start":
            announced = True
        elif event["event"] == "measurement":
            steps.add(event["step"])
    return Delivered(attempt, announced, frozenset(steps))


def has_checkpoint(folder: str | None) -> bool:
    """Whether a trial can go on from where it was."""
    return folder is not None and any(Path(folder).glob(CHECKPOINTS))


def forget_checkpoint(folder: str | None) -> None:
    """Removes the checkpoints of a trial that ended, and its folder if nothing else is in it."""
    if folder is None or not Path(folder).is_dir():
        return
    for file in Path(folder).glob(CHECKPOINTS):
        file.unlink(missing_ok=True)
    if not any(Path(folder).iterdir()):
        Path(folder).rmdir()
