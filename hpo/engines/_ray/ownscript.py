"""A trial inside a user's own Ray script: the class behind `hpo.trainable`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from hpo import lineage
from hpo.errors import HpoError
from hpo.lineage import Lineage

if TYPE_CHECKING:
    from hpo.problem import Problem
    from objectives.training.measurement import Measurement
    from search_spaces.schedule import Schedule


class OwnScript(tune.Trainable):  # type: ignore[misc]
    """One training under the knobs in its config; those it does not name have their start values.

    Each result is a measurement: its metrics, `step` and `progress`. A checkpoint of a task holds,
    in lineage.json, the schedule that led there; restored under other knobs, as schedulers of
    populations do, it goes on with these.
    """

    spec: ClassVar[Mapping[str, Any]]
    _run: Generator[Measurement] | None
    _last: Measurement | None

    def setup(self, config: dict[str, Any]) -> None:
        from hpo.problem import load
        from hpo.spec import StudySpec

        self._problem: Problem = load(StudySpec.model_validate(dict(self.spec)))
        self._folder = Path(tempfile.mkdtemp(prefix="hpo-"))
        self._begin(self._schedule(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(self._schedule(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """The next measurement; after the last one, that it was the last."""
        if self._run is None:
            self._run = self._started()
        try:
            found = next(self._run)
            while found.step <= self._reached:  # the past of a checkpoint
                found = next(self._run)
        except StopIteration:
            return {RESULT_DUPLICATE: True}
        self._last = found
        metrics = {**found.metrics, "step": found.step, "progress": found.progress}
        return {**metrics, "done": found.progress >= 1.0}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if not self._problem.is_task or self._last is None:
            raise HpoError(
                f"objective {self._problem.spec.objective} has no checkpoint to save",
                hint="only a task that has been measured has one: use a scheduler that neither"
                " pauses nor clones trials, and checkpoint_at_end=False",
                code="no-checkpoint",
            )
        last = self._last
        found = Lineage(0, last.step, last.progress, self._followed)
        lineage.keep(self._folder, Path(checkpoint_dir), found)

    def load_checkpoint(self, checkpoint: str) -> None:
        found = lineage.read(Path(checkpoint))
        schedule = found.taken_over(0, self._schedule(self.config).at(0.0)).schedule
        self.cleanup()
        self._begin(schedule, found.step)
        self._folder.mkdir(exist_ok=True)
        lineage.keep(Path(checkpoint), self._folder, found)

    def cleanup(self) -> None:
        if self._run is not None:
            self._run.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, schedule: Schedule, reached: int = 0) -> None:
        self._followed, self._reached = schedule, reached
        self._run = self._last = None

    def _started(self) -> Generator[Measurement]:
        from hpo.trial import follow

        problem, folder = self._problem, str(self._folder)
        return follow(problem, self._followed, problem.spec.seed, folder, problem.is_task)

    def _schedule(self, config: Mapping[str, Any]) -> Schedule:
        """The schedule of a config; a vector may be given as a list, or strength by strength."""
        values: dict[str, Any] = {}
        for name, value in config.items():
            if isinstance(value, list | tuple):
                values |= {f"{name}[{index}]": entry for index, entry in enumerate(value)}
            else:
                values[name] = value
        return self._problem.schedule(values)


def made(spec: Mapping[str, Any]) -> type[OwnScript]:
    """The class that trains what a spec describes."""
    return type("Objective", (OwnScript,), {"spec": dict(spec)})
