"""The study's own run in MLflow, the parent of its trials' runs."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from hpo.spool import Spool
from hpo.tracking import parcel
from hpo.tracking.batch import Point
from hpo.tracking.cursor import Cursor
from hpo.tracking.store import Missing, Refused, Store

_ENDED = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MOST_RANKED = 100


class StudyRun:
    """Opens, closes and reopens the parent run named by the cursor."""

    def __init__(self, store: Store, spool: Spool, cursor: Cursor) -> None:
        self._store, self._spool, self._cursor = store, spool, cursor

    def open(self, event: Mapping[str, Any], uncertain: bool) -> None:
        """Makes the study's run, or takes it up again. Raises Missing if the store lost it."""
        cursor, store = self._cursor, self._store
        values = event.get("params") or {}
        cursor.key = re.sub(r"[^\w.-]", "_", str(event["key"]))
        cursor.study, cursor.experiment = str(event["study"]), str(event["experiment"])
        metric = event.get("metric") or values.get("minimize") or values.get("maximize")
        cursor.metric = str(metric or "value")
        cursor.artifacts = [str(file) for file in event.get("artifacts") or ()]
        known = bool(cursor.parent and store.run(cursor.parent))
        cursor.experiment_id = store.experiment(cursor.experiment)
        found = self._found() if uncertain and not known else []
        cursor.parent = cursor.parent or (found[0] if found else self._create(event))
        existing: Mapping[str, str] = {}
        if known or found:
            store.reopen(cursor.parent)
            existing = store.run(cursor.parent).params
        self._sweep(found[1:])
        self._describe(event, existing)

    def close(self, event: Mapping[str, Any], offset: int) -> str:
        """Ends the study's run with its best trial's curves and everybody's rank.

        Returns what the store refused of it, "" if nothing.
        """
        parent, store, time = self._cursor.parent, self._store, int(event["time"])
        status = str(event["status"])
        ranks = {str(trial): int(rank) for trial, rank in (event.get("ranks") or {}).items()}
        files = [str(file) for file in event.get("artifacts") or ()]
        tags = parcel.tags(event.get("tags") or {}) | {"hpo.status": status}
        steps: list[Callable[[], None]] = [
            lambda: self._park(time),
            lambda: self._draw_best(event.get("best"), offset),
            lambda: self._rank(ranks),
            lambda: store.attach(self._cursor.parent, files),
            lambda: store.log(self._cursor.parent, tags=tags),
            lambda: store.end(self._cursor.parent, _ENDED.get(status, "FINISHED"), time),
        ]
        refused = ""
        for step in steps:
            try:
                step()
            except Missing:
                store.run(parent)
                raise
            except Refused as error:
                refused = str(error)
        return refused

    def _create(self, event: Mapping[str, Any]) -> str:
        tags = parcel.tags(event.get("tags") or {}) | origin() | self._key()
        tags |= {"hpo.study": self._cursor.study, "hpo.generation": "0"}
        experiment = self._cursor.experiment_id
        return self._store.create(experiment, self._cursor.study, int(event["time"]), tags)

    def _describe(self, event: Mapping[str, Any], existing: Mapping[str, str]) -> None:
        """Params, tags and files of the study. Params are written once; what a resumed study
        changed is said in a tag."""
        wanted = parcel.params(event.get("params") or {})
        changed = {
            name: value for name, value in wanted.items() if existing.get(name, value) != value
        }
        tags = parcel.tags(event.get("tags") or {})
        if changed:
            tags["hpo.resumed_with"] = ", ".join(f"{k}={v}" for k, v in changed.items())[:5000]
        new = {name: value for name, value in wanted.items() if name not in existing}
        self._store.log(self._cursor.parent, params=new, tags=tags)
        self._store.attach(self._cursor.parent, self._cursor.artifacts)

    def _key(self) -> dict[str, str]:
        return {"hpo.key": f"{self._cursor.key}/study"}

    def _found(self) -> list[str]:
        """The study's runs in the store, the latest made first: more than one only if the process
        died while one replaced another."""
        found = self._store.search(self._cursor.experiment_id, self._key())

        def generation(run: str) -> int:
            return int(self._store.run(run).tags.get("hpo.generation", 0))

        return sorted(found, key=generation, reverse=True) if len(found) > 1 else found

    def _park(self, time: int) -> None:
        """Ends the runs of trials that may go on when the study is resumed."""
        for run in self._cursor.runs.values():
            if not run.parked:
                with suppress(Refused):  # a run the user has deleted
                    self._store.tag(run.id, "hpo.outcome", "interrupted")
                    self._store.end(run.id, "KILLED", time)
                run.parked = True

    def _draw_best(self, best: Any, until: int) -> None:
        """Gives the study's run the curves of its best trial.

        MLflow never takes a point back. If the run already shows another trial's curves, which
        would be drawn across the new ones, a new run takes its place, children and all.
        """
        if best is None:
            return
        trial = int(best)
        attempt = _last_attempt(self._spool, trial, until)
        if attempt is None:
            return
        curves = f"{trial}/{attempt}"
        shown = self._store.run(self._cursor.parent).tags.get("hpo.curves", "")
        if shown not in ("", curves):
            self._replace()
        said = {"hpo.curves": curves, "hpo.best_trial": str(trial)}
        self._store.log(self._cursor.parent, tags=said)
        self._store.log(self._cursor.parent, _curves(self._spool, trial, attempt, until))

    def _replace(self) -> None:
        cursor, store = self._cursor, self._store
        old = store.run(cursor.parent)
        generation = int(old.tags.get("hpo.generation", 0)) + 1
        mine = self._key() | {"hpo.generation": str(generation)}
        new = store.find(cursor.experiment_id, mine)
        if new is None:
            tags = {key: value for key, value in old.tags.items() if key != "hpo.curves"}
            tags.pop("mlflow.runName", None)
            new = store.create(cursor.experiment_id, old.name, old.started, tags | mine)
        bests = [key for key in store.metric_names(old.id) if key.startswith("best/")]
        points = [point for key in bests for point in store.history(old.id, key)]
        store.log(new, points, old.params)
        store.attach(new, cursor.artifacts)
        cursor.parent = new
        self._sweep([old.id])

    def _sweep(self, replaced: Sequence[str]) -> None:
        """Moves the children of replaced runs to the study's run and bins the replaced ones."""
        for old in replaced:
            below = {"mlflow.parentRunId": old}
            while children := self._store.search(self._cursor.experiment_id, below):
                for child in children:
                    self._store.tag(child, "mlflow.parentRunId", self._cursor.parent)
            self._store.discard(old)

    def _rank(self, ranks: Mapping[str, int]) -> None:
        """Brings the tags hpo.rank of the best trials up to date."""
        cursor, store = self._cursor, self._store
        wanted = {trial: rank for trial, rank in ranks.items() if rank <= _MOST_RANKED}
        for trial in [trial for trial in cursor.ranks if trial not in wanted]:
            with suppress(Refused):
                store.untag(cursor.ranks[trial][1], "hpo.rank")
            del cursor.ranks[trial]
        for trial, rank in sorted(wanted.items(), key=lambda item: item[1]):
            before = cursor.ranks.get(trial)
            if before is not None and before[0] == rank:
                continue
            of_trial = {"mlflow.parentRunId": cursor.parent, "hpo.trial": trial}
            run = before[1] if before else store.find(cursor.experiment_id, of_trial)
            if run is not None:
                with suppress(Refused):
                    store.tag(run, "hpo.rank", str(rank))
                cursor.ranks[trial] = (rank, run)


def origin() -> dict[str, str]:
    """Who ran it with what, as MLflow's own columns show it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "hpo", "mlflow.source.type": "LOCAL"}


def _last_attempt(spool: Spool, trial: int, until: int) -> int | None:
    """The last attempt of a trial that measured something."""
    attempts = [int(event["attempt"]) for event in _measurements(spool, trial, until)]
    return max(attempts, default=None)


def _curves(spool: Spool, trial: int, attempt: int, until: int) -> Iterator[Point]:
    """Every point of one attempt, read from the events as they are needed."""
    last = -1
    for event in _measurements(spool, trial, until):
        if int(event["attempt"]) == attempt and int(event["step"]) > last:
            last = int(event["step"])
            yield from parcel.measured(event)


def _measurements(spool: Spool, trial: int, until: int) -> Iterator[Mapping[str, Any]]:
    needed = ("trial", "attempt", "step", "time")
    for offset, event in spool.read():
        if offset > until:
            return
        whole = event["event"] == "measurement" and all(name in event for name in needed)
        if whole and event["trial"] == trial:
            yield event
