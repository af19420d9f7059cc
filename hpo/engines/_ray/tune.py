"""The study's side of Ray Tune: a searcher that asks it, a scheduler that tells it, a stopper."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from hpo.engines._ray.driving import Drive


class AskAndTell(Searcher):  # type: ignore[misc]
    """Asks the study for plans and tells it how they ended. It has no state of its own: the ledger
    is the truth."""

    def __init__(self, drive: Drive) -> None:
        super().__init__()
        self._drive = drive

    def suggest(self, trial_id: str) -> Any:
        self._drive.cluster.head.check()
        self._drive.tick()  # Ray's loop stands still while nothing runs and there is no room
        config = self._drive.suggest(trial_id)
        if config is not None:
            return config
        drive = self._drive
        ended = drive.error is not None or (drive.study.done() and not drive.executions)
        return Searcher.FINISHED if ended or drive.over else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            self._drive.failed(trial_id)
        else:
            self._drive.ended(trial_id, result or {})

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""


class Forward(FIFOScheduler):  # type: ignore[misc]
    """Hands every result to the study and its decision back to Ray."""

    def __init__(self, drive: Drive) -> None:
        super().__init__()
        self._drive = drive

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._drive.measured(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._drive.met(trial.trial_id, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None in particular: Ray starts those that are pending as there is room."""


class Listen(Callback):  # type: ignore[misc]
    """Notes when trials start, and keeps what the study has taken in from piling up in Ray."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self._drive.cluster.head.check()
        self._drive.tick()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._drive.met(trial.trial_id, trial)
        self._drive.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "outcome" in result or result.get("done"):  # the end of the trial is still to be told
            return
        for name in ("files", "measurement", "past", "lineage", "told"):
            result.pop(name, None)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        _forget(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        _forget(trial)


def _forget(trial: Any) -> None:
    """Drops what was sent to a trial that is over, checkpoints with it: Ray keeps all trials."""
    trial.config, trial.evaluated_params = {}, {}


class StopWithStudy(Stopper):  # type: ignore[misc]
    """Ends Ray's run when the study is stopped or interrupted."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._drive.over
