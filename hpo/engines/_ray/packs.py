"""Several trials in one worker, as an ensemble: the worker reports all of them at each step, and is
told which of them are pruned before the next one."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hpo.engines._ray.driving import Drive, kept
from hpo.engines._ray.execution import Execution
from hpo.engines._ray.trainable import StudyTrial
from hpo.trial import Outcome, Plan, Travelled
from objectives.training.measurement import Measurement

if TYPE_CHECKING:
    from hpo.packing import Told


class PackedTrials(StudyTrial):
    """Config: besides that of a single trial, `plans`, a list as JSON. A result holds what is
    `told`: numbers of trials with a measurement or an outcome, as JSON. `_plans` are those that
    have not ended."""

    _run: Generator[Told, set[int]] | None
    _pruned: set[int]
    _plans: list[Plan]

    def step(self) -> dict[str, Any]:
        """What all trials have to say next."""
        from hpo.trial import failure

        if self._leaves and not self._plans:
            os._exit(1)  # memory ran out: a fresh process gives all of it back
        try:
            if self._run is None:
                self._run = self._together()
                told = next(self._run)
            else:
                pruned, self._pruned = self._pruned, set()
                told = self._run.send(pruned)
        except StopIteration:
            return {"told": "[]", "done": not self._leaves}
        except BaseException as error:
            failed = failure(error)
            told = [(plan.number, failed) for plan in self._plans]
            return {"told": self._said(told), "done": not self._leaves}
        return {"told": self._said(told)}

    def prune(self, numbers: list[int]) -> None:
        """Notes which trials end with the next step."""
        self._pruned |= {*numbers}

    def _begin(self, config: Mapping[str, Any]) -> None:
        super()._begin(config)
        self._plans = [Plan.from_json(plan) for plan in json.loads(config["plans"])]
        self._run, self._pruned = None, set()

    def _together(self) -> Generator[Told, set[int]]:
        from hpo.packing import execute_together

        self._load()
        plans = self._plans
        if self._mirror.folder != self._plan.checkpoint:  # the study's folder is not here
            plans = [replace(plan, checkpoint=None) for plan in plans]
        return execute_together(self._problem, plans)

    def _said(self, told: Told) -> str:
        said = []
        for number, news in told:
            if isinstance(news, Outcome):
                self._leaves = self._leaves or news.reason == "oom"
                self._plans = [plan for plan in self._plans if plan.number != number]
                news = replace(news, worker=self._name)
            said.append([number, isinstance(news, Outcome), news.to_json()])
        return json.dumps(said)

    def _end(self) -> None:
        if self._run is not None:
            with suppress(Exception):
                self._run.close()
        self._run = None
        super()._end()


@dataclass
class Pack(Execution):
    """Plans that are carried out together; those that have ended are taken out."""

    plans: dict[int, Plan] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        return sorted(self.plans)


class PackDrive(Drive):
    """One run of a study whose trials go together on each worker."""

    def _ask(self) -> tuple[Execution, dict[str, Any]] | None:
        plans = self.study.ask_together(self.study.spec.pack, roomy=True)
        if not plans:
            return None
        first, by_number = plans[0], {plan.number: plan for plan in plans}
        told = json.dumps([plan.to_json() for plan in plans])
        pack = Pack(first, Travelled(first), plans=by_number)
        return pack, {**self.config(first), "plans": told}

    @kept(False)
    def measured(self, name: str, result: Mapping[str, Any]) -> bool:
        self.silence.heard(name)
        pruned = self._take(self._pack(name), result)
        self.tick()
        if pruned:
            self._pack(name).trial.temporary_state.ray_actor.prune.remote(pruned)
        return True

    @kept(None)
    def ended(self, name: str, result: Mapping[str, Any]) -> None:
        pack = self._pack(name)
        self._take(pack, result)
        self._forget(name)
        for number in pack.numbers:
            self.study.leave(number)

    def _pack(self, name: str) -> Pack:
        found = self.executions[name]
        assert isinstance(found, Pack)
        return found

    def _take(self, pack: Pack, result: Mapping[str, Any]) -> list[int]:
        """Hands on what the trials have said; returns the numbers of those that are pruned."""
        pruned = []
        for number, is_outcome, data in json.loads(result.get("told", "[]")):
            if is_outcome:
                del pack.plans[number]
                self.study.tell(number, Outcome(**data))
            elif not self.study.observe(number, Measurement.from_json(data)):
                pruned.append(number)
        return pruned
