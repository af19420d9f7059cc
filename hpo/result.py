"""What came out of a study, read from its ledger: best, schedule, table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hpo import ended, ledger
from hpo.errors import HpoError
from hpo.folder import DEFAULT_MLRUNS, Folder, find, read_spec
from hpo.ledger import TrialRecord
from hpo.lock import holder
from hpo.problem import any_value
from hpo.spec import StudySpec
from search_spaces.domains import Domain, Point
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from pathlib import Path

    import pandas


_ENDED = frozenset({"complete", "pruned", "failed"})


@dataclass(frozen=True)
class Best:
    """The best trial: `value` of the metric at its best step, `holdout` the same on the selection
    hold-out (None where the task merges them), and the `schedule` it followed."""

    number: int
    value: float
    holdout: float | None
    step: int | None
    schedule: Schedule


@dataclass(frozen=True)
class Result:
    """A study as its ledger stands at the time of reading."""

    folder: Folder
    spec: StudySpec
    records: Sequence[TrialRecord]

    @cached_property
    def space(self) -> SearchSpace:
        """What was searched."""
        assert isinstance(self.spec.space, Mapping)
        return SearchSpace.parse(self.spec.space, {}, True)

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """Completed trials, best first."""
        return ledger.ranked(self.records, self.spec.direction)

    @property
    def best(self) -> Best | None:
        """The best completed trial, or None if there is none yet."""
        if not self.ranked:
            return None
        first = self.ranked[0]
        assert first.value is not None
        schedule = self.schedule_of(first)
        return Best(first.number, first.value, first.holdout, first.step, schedule)

    @property
    def ended(self) -> int:
        """How many trials have ended, well or not."""
        return sum(record.state in _ENDED for record in self.records)

    @property
    def state(self) -> str:
        """running (some process drives it), finished, or stopped: it can be continued."""
        if holder(self.folder.path) is not None:
            return "running"
        done = self.ended >= self.spec.budget.trials or self.why in ended.FINISHED
        return "finished" if done else "stopped"

    @property
    def why(self) -> str:
        """Why it ended: trials (it ran all), plateau, exhausted, time, failures, stopped,
        interrupted or error; "" while it runs, or if its driver was cut off."""
        return ended.read(self.folder.spool)

    @property
    def start(self) -> TrialRecord | None:
        """The trial that ran the start values."""
        return next((r for r in self.records if r.number == 0), None)

    @property
    def schedule(self) -> Schedule:
        """The discovered schedule: that of the best trial. Raises HpoError if none completed."""
        best = self.best
        if best is None:
            raise HpoError(
                f"study {self.spec.name} has no completed trial yet",
                hint=f"hpo show {self.spec.name} tells what happened",
                code="no-result",
            )
        return best.schedule

    @property
    def trials(self) -> pandas.DataFrame:
        """One row a trial: number, state, metric, holdout, step, start.<knob>, seconds, …"""
        return ledger.frame(self.records, self.spec.metric)

    def schedule_of(self, record: TrialRecord) -> Schedule:
        """The schedule a trial followed."""
        return ledger.schedule_of(record, self.space, self.fixed_domains, self.spec.fixed)

    @property
    def fixed_domains(self) -> dict[str, Domain]:
        return {name: any_value(value) for name, value in self.fixed.items()}

    @property
    def fixed(self) -> Point:
        """The values the study held constant."""
        return self.spec.fixed

    def summary(self) -> dict[str, Any]:
        """Plain data: best, start value, counts by state, where things are."""
        best, start = self.best, self.start
        states: dict[str, int] = {}
        for record in self.records:
            states[record.state] = states.get(record.state, 0) + 1
        return {
            "study": self.spec.name,
            "objective": self.spec.objective,
            "sampler": self.spec.sampler,
            "metric": self.spec.metric,
            "direction": self.spec.direction,
            "state": self.state,
            "why": self.why,
            "trials": states,
            "ended": self.ended,
            "budget": self.spec.budget.trials,
            "best": None
            if best is None
            else {
                "trial": best.number,
                "value": best.value,
                "holdout": best.holdout,
                "step": best.step,
                "point": dict(best.schedule.at(1.0)),
            },
            "start_value": start.value if start else None,
            "folder": str(self.folder.path),
            "schedule": str(self.folder.schedule) if best else None,
        }


def open_study(study: str | None = None, mlruns: Path | str = DEFAULT_MLRUNS) -> Result:
    """The study of this name, at this folder, or the latest one. Raises HpoError."""
    return read(find(study, mlruns))


def read(folder: Folder) -> Result:
    """The result of the study in `folder`, which another process may still be running."""
    from hpo.opening import read_records

    spec = read_spec(folder)
    if not isinstance(spec.space, Mapping):
        raise HpoError(f"{folder.spec}: holds no resolved space", code="damaged-spec")
    space = SearchSpace.parse(spec.space, {}, True)
    return Result(folder, spec, read_records(folder, spec.storage, spec.name, space))
