"""Sends a study's events to MLflow so that sending any of them again changes nothing.

Times come from the events, so a metric sent twice is there once. A run carries the tag hpo.key,
by which it is found again if the process died between creating it and noting its id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hpo.spool import Spool
from hpo.tracking import parcel
from hpo.tracking.batch import Point
from hpo.tracking.cursor import Cursor, OpenRun
from hpo.tracking.parcel import Parcel
from hpo.tracking.parent import StudyRun, origin
from hpo.tracking.store import Missing, Refused, Store

_NEEDED = {
    "study": ("key", "study", "experiment"),
    "start": ("trial", "attempt"),
    "measurement": ("trial", "attempt", "step"),
    "end": ("trial", "attempt", "outcome"),
    "best": ("trial", "value"),
    "close": ("status",),
}


class Forgotten(Exception):
    """The store has lost the study: everything must be sent again."""


class Sender:
    """Turns events into runs of one store, keeping the cursor's record of runs up to date.

    Runs made for events up to byte `uncertain` may be in the store already. What the store
    refuses for good is left out and said in `problem`.
    """

    def __init__(self, store: Store, spool: Spool, cursor: Cursor, uncertain: int) -> None:
        self.uncertain = uncertain
        self.problem = ""
        self.store, self._cursor = store, cursor
        self._study = StudyRun(store, spool, cursor)
        self._parcels: dict[str, Parcel] = {}
        self._best: list[Point] = []

    def send(self, events: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Delivers these events, in order. Raises what MLflow raises when it does not answer."""
        self._parcels, self._best = {}, []
        for offset, event in events:
            try:
                known = self._gather(offset, event)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.problem = f"event {event.get('event')} is not understood: {error!r}"
                continue
            if not known:
                self._flush()
                self._accepted(partial(self._study_event, offset, event))
        self._flush()

    def _gather(self, offset: int, event: Mapping[str, Any]) -> bool:
        """Takes an event about a trial; False for one about the study, which ends a stretch."""
        kind = event["event"]
        if kind not in _NEEDED:
            return True
        values = {name: event[name] for name in _NEEDED[kind]}
        time = int(event["time"])
        if kind in ("study", "close"):
            return False
        trial = int(values["trial"])
        if kind == "best":
            key = parcel.clean(f"best/{event.get('metric') or self._cursor.metric}")
            self._best.append(Point(key, float(values["value"]), time, trial))
            return True
        attempt = int(values["attempt"])
        name = f"{trial}/{attempt}"
        if name not in self._parcels:
            run = self._cursor.runs.get(name)
            self._parcels[name] = Parcel(trial, attempt, run.step if run else -1)
        self._parcels[name].add({**event, "offset": offset})
        if kind == "measurement" and not self._cursor.knobs:
            drawn = parcel.knobs(event.get("point") or {})
            self._cursor.knobs = [parcel.clean(knob) for knob in drawn][:100]
        return True

    def _study_event(self, offset: int, event: Mapping[str, Any]) -> None:
        if event["event"] == "study":
            self._study.open(event, offset <= self.uncertain)
        elif self._cursor.parent:
            self.problem = self._study.close(event, offset) or self.problem

    def _flush(self) -> None:
        parcels, self._parcels = self._parcels, {}
        best, self._best = self._best, []
        if not self._cursor.parent:
            if parcels:
                self.problem = "trials before their study: the events file is damaged"
            return
        for name, made in parcels.items():
            self._accepted(partial(self._deliver, name, made))
        if best:
            self._accepted(partial(self.store.log, self._cursor.parent, best))

    def _accepted(self, deliver: Callable[[], None]) -> None:
        """Delivers; notes a refusal. A study that is gone from the store is another matter."""
        try:
            deliver()
        except Refused as error:
            self.problem = str(error)
            if isinstance(error, Missing) and self._cursor.parent:
                try:
                    self.store.run(self._cursor.parent)
                except Missing:
                    raise Forgotten(self.problem) from error

    def _deliver(self, name: str, made: Parcel) -> None:
        run = self._run(name, made)
        if run.parked:
            self.store.reopen(run.id)
            run.parked = False
        start = made.start or {}
        self.store.log(run.id, made.points, parcel.params(start.get("params") or {}), made.tags)
        run.step = made.step
        self.store.attach(run.id, made.files)
        if made.end:
            self.store.end(run.id, *made.end)
            self._cursor.runs.pop(name, None)

    def _run(self, name: str, made: Parcel) -> OpenRun:
        """The run of an attempt: the one that is open, one found by its key, or a new one."""
        cursor, event = self._cursor, made.start
        if name in cursor.runs:
            return cursor.runs[name]
        key = {"hpo.key": f"{cursor.key}/{name}"}
        found = None
        if event is None or event["offset"] <= self.uncertain:
            found = self.store.find(cursor.experiment_id, key)
        if found is not None:  # it may stem from a study run that is gone
            made.tags["mlflow.parentRunId"] = cursor.parent
        else:
            first = made.points[0].time if made.points else made.end[1] if made.end else 0
            tags = parcel.tags((event or {}).get("tags") or {}) | origin() | key
            tags |= {"mlflow.parentRunId": cursor.parent, "hpo.study": cursor.study}
            tags |= {"hpo.trial": str(made.trial), "hpo.attempt": str(made.attempt)} | made.tags
            made.tags = {}  # one write less for a trial that has ended already
            title = parcel.run_name(made.trial, made.attempt)
            time = int(event["time"]) if event else first
            found = self.store.create(cursor.experiment_id, title, time, tags)
        return cursor.runs.setdefault(name, OpenRun(found))
