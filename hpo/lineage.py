"""Where a member of a population comes from: the schedule it has followed so far, and from whom.

Every member trains from the study's seed. So what it has become is what its schedule makes of that
seed, also after it has taken over another's checkpoint: following the schedule from the start gives
the same curve, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpo.errors import HpoError
from hpo.folder import replace_json
from hpo.recovery import CHECKPOINTS, LINEAGE, forget_checkpoint, has_checkpoint
from hpo.trial import Plan
from search_spaces.domains import Point, Value
from search_spaces.schedule import Schedule, Track


@dataclass(frozen=True)
class Lineage:
    """A member's checkpoint at a step: the schedule that led there, and whom was taken over on the
    way, (trial, step) by (trial, step)."""

    trial: int
    step: int
    progress: float
    schedule: Schedule
    taken: tuple[tuple[int, int], ...] = ()

    def taken_over(self, trial: int, point: Point) -> Lineage:
        """The lineage of the trial that goes on from here, at another point."""
        schedule = _continued(self.schedule, self.progress, point)
        taken = (*self.taken, (self.trial, self.step))
        return replace(self, trial=trial, schedule=schedule, taken=taken)

    def carried_out(self, plan: Plan) -> Plan:
        """The plan of the member with this lineage."""
        return replace(plan, schedule=self.schedule, taken=self.taken)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "schedule": self.schedule.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Lineage:
        taken = tuple((int(trial), int(step)) for trial, step in data["taken"])
        return Lineage(**{**data, "schedule": Schedule.from_json(data["schedule"]), "taken": taken})


def keep(source: Path, folder: Path, lineage: Lineage) -> None:
    """Replaces the checkpoints in a folder by those of another, and the lineage by theirs.

    In an order that a kill at any moment leaves consistent: a lineage whose checkpoints are missing
    leads to them again, from the start.
    """
    forget_checkpoint(str(folder))
    replace_json(folder / LINEAGE, lineage.to_json())
    for file in source.glob(CHECKPOINTS):
        copy = folder / (file.name + ".unfinished")
        copy.unlink(missing_ok=True)
        try:
            copy.hardlink_to(file)  # the loop replaces its checkpoint, it does not write into it
        except OSError:
            shutil.copyfile(file, copy)
        copy.replace(folder / file.name)


def reached(plan: Plan, folder: str | None) -> int:
    """The step up to which a trial has been measured before, as its checkpoints say; 0 for one that
    begins, and for one that sends its past measurement by measurement."""
    if not plan.pausable or folder is None:
        return 0
    from objectives.training import checkpoint as checkpoints  # torch: not every driver needs it

    found = [checkpoints.load(file)["history"] for file in Path(folder).glob(CHECKPOINTS)]
    return min((history[-1]["step"] for history in found if history), default=0)


def read(folder: Path) -> Lineage:
    """The lineage in a folder. Raises HpoError for a file that says none, OSError without one."""
    path = folder / LINEAGE
    try:
        return Lineage.from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, LookupError, HpoError) as error:
        raise HpoError(
            f"{path} is damaged ({type(error).__name__})",
            hint="the trial begins again without it",
            code="bad-checkpoint",
        ) from error


def present(plan: Plan) -> Plan:
    """The plan as its folder says: with the schedule that led to the checkpoints there. Where that
    cannot be read, it begins again."""
    if plan.checkpoint is None or not has_checkpoint(plan.checkpoint):
        return plan
    try:
        return read(Path(plan.checkpoint)).carried_out(plan)
    except FileNotFoundError:
        return plan
    except HpoError:
        forget_checkpoint(plan.checkpoint)
        return plan


def _continued(schedule: Schedule, progress: float, point: Point) -> Schedule:
    """The schedule, in steps, up to a progress, and the point from there on."""
    tracks = {n: _stepped(track, progress, point[n]) for n, track in schedule.tracks.items()}
    return Schedule(schedule.space, tracks)


def _stepped(track: Track, progress: float, value: Value) -> Track:
    knots = [knot for knot in zip(track.progress, track.values, strict=True) if knot[0] < progress]
    if not knots or knots[-1][1] != value:
        knots.append((progress if knots else 0.0, value))
    places, values = zip(*knots, strict=True)
    return Track("constant" if len(knots) == 1 else "steps", places, values)
