"""The worker's side: an actor of Ray Tune that takes one step of a trial when it is asked to.

Only text, numbers and the files of checkpoints travel. The actor serves one trial after another.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from hpo import lineage
from hpo.engines._ray.files import Mirror
from hpo.engines._ray.population import point
from hpo.lineage import Lineage

if TYPE_CHECKING:
    from hpo.trial import Outcome, Plan
    from objectives.training.measurement import Measurement


class StudyTrial(tune.Trainable):  # type: ignore[misc]
    """Config: `plan` and `spec` as JSON, `worker` (what every worker of the study is told),
    `bundle` (what it gets), `asked` (whether a scheduler of Ray's is asked about it), `files` (a
    checkpoint, for nodes without the study's folder), `point` (the knobs of a member of a
    population).

    A result holds a `measurement`, or the `outcome` with which the trial ended, as JSON; the first
    one of a trial that goes on from a checkpoint also its `past`, and its `lineage` if the
    checkpoint was another trial's.
    """

    _problem: Any
    _plan: Plan
    _spec: str
    _trial: Generator[Measurement, bool, Outcome] | None
    _leaves: bool
    _mirror: Mirror
    _last: Measurement | None
    _ahead: Measurement | None
    _asked: bool
    _news: dict[str, Any]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([dict(config["bundle"])])

    def setup(self, config: dict[str, Any]) -> None:
        self._name = _settle(config)
        self._problem = None
        self._begin(config)
        with suppress(Exception):  # the first step tells of it
            self._load()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._mirror.remove()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next measurement, or how the trial ended."""
        from hpo.trial import failure

        if self._leaves:
            os._exit(1)  # memory ran out: a fresh process gives all of it back
        result: dict[str, Any] = {}
        try:
            self._last = self._next()
            result = {"measurement": json.dumps(self._last.to_json())}
            if self._last.progress >= 1.0 and not self._asked:
                self._ahead = self._next()  # nobody would end it here: it saves a round trip
        except StopIteration as end:
            return {**result, **self._ended(end.value)}
        except BaseException as error:
            return {**result, **self._ended(failure(error))}
        return self._told(result)

    def _next(self) -> Measurement:
        if self._ahead is not None:
            found, self._ahead = self._ahead, None
            return found
        return self._caught_up() if self._trial is None else self._trial.send(True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Where the trial is, and the way there."""
        assert self._mirror.folder is not None and self._last is not None
        plan, last = self._plan, self._last
        found = Lineage(plan.number, last.step, last.progress, plan.schedule, plan.taken)
        lineage.keep(Path(self._mirror.folder), Path(checkpoint_dir), found)

    def load_checkpoint(self, checkpoint: str) -> None:
        """Goes on from a checkpoint; from another trial's, with the knobs that the config says."""
        assert self._mirror.folder is not None
        found = lineage.read(Path(checkpoint))
        if found.trial != self._plan.number:
            found = found.taken_over(self._plan.number, point(self.config))
            self._news["lineage"] = json.dumps(found.to_json())
        self._end()
        self._plan = found.carried_out(self._plan)
        lineage.keep(Path(checkpoint), Path(self._mirror.folder), found)

    def cleanup(self) -> None:
        self._end()
        self._mirror.remove()

    def get_auto_filled_metrics(self, *given: Any, **named: Any) -> dict[str, Any]:
        """Ray's own fields, without the config that the driver has sent."""
        filled: dict[str, Any] = super().get_auto_filled_metrics(*given, **named)
        return {name: value for name, value in filled.items() if name != "config"}

    def _begin(self, config: Mapping[str, Any]) -> None:
        from hpo.trial import Plan

        self._plan = Plan.from_json(json.loads(config["plan"]))
        self._spec = config["spec"]
        self._trial = self._last = self._ahead = None
        self._asked = config["asked"]
        self._leaves = False
        self._news = {}
        self._mirror = Mirror(self._plan.checkpoint, config)

    def _started(self) -> Generator[Measurement, bool, Outcome]:
        from hpo.trial import execute

        self._load()
        return execute(self._problem, replace(self._plan, checkpoint=self._mirror.folder))

    def _load(self) -> None:
        """Gets the problem ready: what is imported for it takes seconds."""
        from hpo.problem import load
        from hpo.spec import StudySpec

        if self._problem is None:
            self._problem = load(StudySpec.model_validate(json.loads(self._spec)))

    def _caught_up(self) -> Measurement:
        """The first measurement that is new; those before it, of a checkpoint, become news."""
        self._trial = self._started()
        reached = lineage.reached(self._plan, self._mirror.folder)
        past: list[Measurement] = []
        try:
            measurement = next(self._trial)
            while measurement.step <= reached:
                past.append(measurement)
                measurement = self._trial.send(True)
        finally:
            if past:
                self._news["past"] = json.dumps([one.to_json() for one in past])
        return measurement

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        news, self._news = self._news, {}
        return {**result, **news, **self._mirror.changed()}

    def _ended(self, outcome: Outcome) -> dict[str, Any]:
        self._trial = None
        self._leaves = outcome.reason == "oom"
        told = json.dumps(replace(outcome, worker=self._name).to_json())
        return self._told({"outcome": told, "done": not self._leaves})

    def _end(self) -> None:
        """Closes a trial that was stopped in the middle, and gives its memory back."""
        if self._trial is not None:
            with suppress(Exception):
                self._trial.close()
        self._trial = None
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()


def _settle(config: Mapping[str, Any]) -> str:
    """Makes the process what a worker of the other engine is; returns the worker's name."""
    from hpo.engines._worker import limit_memory

    told = config["worker"]
    os.environ.update(told["variables"])  # torch, which reads them, is imported later
    if not config["bundle"].get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with suppress(OSError):
        os.chdir(told["cwd"])
    limit_memory(_beside_ray(told["memory"]))
    log = Path(told["folder"]) / f"worker-{os.getpid()}.log"
    if log.parent.is_dir():
        with log.open("ab") as file:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        threading.Thread(target=_watch, args=(log,), daemon=True).start()
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{socket.gethostname()}/{os.getpid()} {f'cuda:{gpus}' if gpus else 'cpu'}"


def _beside_ray(memory: int | None) -> int | None:
    """The limit for a trial, with what Ray has taken of it before: without memory its threads do
    not end the process, they write about it for ever."""
    if memory is None:
        return None
    try:
        status = Path("/proc/self/status").read_text()
        return memory + 1024 * int(status.partition("VmData:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return None


def _watch(log: Path) -> None:
    from hpo.engines._worker import keep_short

    while True:
        keep_short(log)
        time.sleep(0.5)
