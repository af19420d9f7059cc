"""The few MLflow calls a study needs, each of which may be repeated without changing the result.

MLflow is imported here and only here, when a store is opened: that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from hpo.tracking.address import database_file, is_server
from hpo.tracking.batch import Point, chunks
from hpo.tracking.quiet import settings, silence_this_thread

Result = TypeVar("Result")


class Refused(Exception):
    """MLflow understood the call and will never accept it; repeating it is pointless."""


class Missing(Refused):
    """The run or experiment is not in the store (any more)."""


class RunData(NamedTuple):
    """What a run in the store looks like."""

    id: str
    deleted: bool
    name: str
    started: int
    params: Mapping[str, str]
    tags: Mapping[str, str]


class Store:
    """One connection to MLflow at `uri`; created in the thread that uses it."""

    def __init__(self, uri: str, artifact_root: Path) -> None:
        settings()
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        silence_this_thread()
        self._uri, self._artifact_root = uri, artifact_root
        self._entities = entities
        file = database_file(uri)
        if file is not None:
            _ready(file)
        self._given_up = False
        self._client = self._call(lambda: MlflowClient(tracking_uri=uri, registry_uri=uri))

    def give_up(self) -> None:
        """Makes every later call fail: another tracker may be at work. For any thread."""
        self._given_up = True

    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, created or taken out of the bin if need be."""
        client = self._client
        found = self._call(lambda: client.get_experiment_by_name(name))
        if found is None:
            place = None if is_server(self._uri) else self._artifact_root.absolute().as_uri()
            try:
                created = self._call(
                    lambda: client.create_experiment(name, artifact_location=place)
                )
                return str(created)
            except Refused:  # created by another process in this moment
                found = self._call(lambda: client.get_experiment_by_name(name))
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._call(lambda: client.restore_experiment(found.experiment_id))
        return str(found.experiment_id)

    def find(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """The id of the newest run with all these tags, or None."""
        return next(iter(self.search(experiment, tags, 1)), None)

    def search(self, experiment: str, tags: Mapping[str, str], most: int = 500) -> list[str]:
        """The ids of at most `most` runs with all these tags, newest first."""
        text = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        order = ["attributes.start_time DESC"]
        runs = self._call(
            lambda: self._client.search_runs([experiment], text, max_results=most, order_by=order)
        )
        return [str(run.info.run_id) for run in runs]

    def create(self, experiment: str, name: str, time: int, tags: Mapping[str, str]) -> str:
        """The id of a new run."""
        run = self._call(
            lambda: self._client.create_run(
                experiment, start_time=time, tags=dict(tags), run_name=name
            )
        )
        return str(run.info.run_id)

    def run(self, run: str) -> RunData:
        """The run as it is now. Raises Missing."""
        found = self._call(lambda: self._client.get_run(run))
        info, data = found.info, found.data
        return RunData(
            id=run,
            deleted=info.lifecycle_stage == "deleted",
            name=str(info.run_name),
            started=int(info.start_time),
            params=dict(data.params),
            tags=dict(data.tags),
        )

    def log(
        self,
        run: str,
        points: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Adds metrics, params and tags in as few calls as the limits allow."""
        entities = self._entities
        for metrics, chunk_params, chunk_tags in chunks(points, params or {}, tags or {}):
            batch = {
                "metrics": [entities.Metric(p.key, p.value, p.time, p.step) for p in metrics],
                "params": [entities.Param(*param) for param in chunk_params],
                "tags": [entities.RunTag(*tag) for tag in chunk_tags],
            }
            self._call(partial(self._client.log_batch, run, **batch))

    def history(self, run: str, key: str) -> list[Point]:
        """All points of one metric of a run."""
        found = self._call(lambda: self._client.get_metric_history(run, key))
        return [Point(key, point.value, point.timestamp, point.step) for point in found]

    def metric_names(self, run: str) -> list[str]:
        """The metrics a run has."""
        return list(self._call(lambda: self._client.get_run(run)).data.metrics)

    def end(self, run: str, status: str, time: int) -> None:
        """Ends a run: FINISHED, KILLED or FAILED, at `time`."""
        self._call(lambda: self._client.set_terminated(run, status, time))

    def reopen(self, run: str) -> None:
        """Makes a run RUNNING again, taking it out of the bin if it is there."""
        if self.run(run).deleted:
            self._call(lambda: self._client.restore_run(run))
        self._call(lambda: self._client.update_run(run, status="RUNNING"))

    def tag(self, run: str, key: str, value: str) -> None:
        """Sets one tag; half the price of `log`."""
        self._call(lambda: self._client.set_tag(run, key, value))

    def untag(self, run: str, key: str) -> None:
        """Takes one tag off a run, if it has it."""
        if key in self.run(run).tags:
            self._call(lambda: self._client.delete_tag(run, key))

    def attach(self, run: str, files: Sequence[str]) -> None:
        """Copies files to the run's artifacts; files that are gone are left out."""
        for file in files:
            if Path(file).is_file():
                self._call(partial(self._client.log_artifact, run, file))

    def discard(self, run: str) -> None:
        """Puts a run into the bin."""
        if not self.run(run).deleted:
            self._call(lambda: self._client.delete_run(run))

    def _call(self, function: Callable[[], Result]) -> Result:
        if self._given_up:
            raise RuntimeError("this connection has been given up")
        return _call(function)


def _call(function: Callable[[], Result]) -> Result:
    """The result of one call; what MLflow will never accept becomes Refused."""
    from mlflow.exceptions import MlflowException

    try:
        return function()
    except MlflowException as error:
        # What answers on a port may be a proxy or something else entirely: only MLflow's own
        # answers count, the rest is an outage.
        if not error.message.startswith("API request to"):
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise Missing(error.message) from error
            if error.error_code in _FINAL:
                raise Refused(error.message) from error
        raise


_FINAL = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"}


def _ready(file: Path) -> None:
    """Makes sure the database exists whole: it is built beside its place and then moved there.

    Built in place, a kill in these seconds would leave a database that MLflow cannot open again.
    """
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    if file.exists():
        # MLflow would retry an unwritable file for minutes before it says so
        file.open("ab").close()
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):  # the studies of two processes may both be the first
        if file.exists():
            return
        building = file.with_name(f"{file.name}.new")
        building.unlink(missing_ok=True)
        building.open("xb").close()
        MlflowClient(tracking_uri=f"sqlite:///{building}", registry_uri=f"sqlite:///{building}")
        building.replace(file)
