"""Trials in processes of this machine: one worker a slot, asked and told by the driver.

A slot asks as soon as it is free, so no trial waits for another. With no workers at all, trials run
one after another in the driver's own process, for notebooks and debuggers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from hpo.engines import Engine, Slots
from hpo.engines._devices import environments
from hpo.engines._interrupts import Interrupts
from hpo.engines._process import Worker
from hpo.engines._silence import Silence
from hpo.trial import Outcome, Plan, drain
from objectives.training.measurement import Measurement

if TYPE_CHECKING:
    from hpo.study import Study

TICK = 0.5
GRACE = 30.0


def run(study: Study, slots: Slots) -> None:
    """Drains trials until the study is done.

    An interrupt stops asking and waits up to 30 s for running trials; a second one, or the end of
    the wait, leaves them open in the ledger. Then KeyboardInterrupt is raised.
    """
    with Interrupts() as interrupts:
        if slots.workers == 0:
            _in_this_process(study, interrupts)
        else:
            pool = _Pool(study, slots, interrupts)
            try:
                pool.drain()
            finally:
                pool.close()
        interrupts.check()


ENGINE = Engine(run, "worker processes of this machine (the default)")


def _in_this_process(study: Study, interrupts: Interrupts) -> None:
    while not study.done() and not interrupts.count:
        study.tick()
        plan = study.ask()
        if plan is None:
            continue
        number = plan.number

        def observe(measurement: Measurement, number: int = number) -> bool:
            with interrupts.raising(False):
                study.tick()
                goes_on = study.observe(number, measurement)
            interrupts.check()
            return goes_on and study.stopping != "now"

        try:
            # What an objective prints must not mix with results on stdout.
            with interrupts.raising(True), redirect_stdout(sys.stderr):
                outcome = drain(study.problem, plan, observe)
        except BaseException:
            study.leave(number)
            raise
        # A trial that did not run to its end because it was told to stop stays open.
        if outcome.state != "complete" and (interrupts.count or study.stopping == "now"):
            study.leave(number)
        else:
            study.tell(number, outcome)


@dataclass
class _Slot:
    environment: Mapping[str, str]
    worker: Worker | None = None
    plan: Plan | None = None


class _Pool:
    """Worker processes and what each is doing."""

    def __init__(self, study: Study, slots: Slots, interrupts: Interrupts) -> None:
        self.study = study
        self.interrupts = interrupts
        self.limits = slots
        wanted = min(slots.workers, max(1, study.spec.budget.trials))
        self.slots: Sequence[_Slot] = [
            _Slot(environment) for environment in environments(replace(slots, workers=wanted))
        ]
        self.last_tick = 0.0
        self.silence = Silence(study.spec.silence)

    def drain(self) -> None:
        while not self.study.done() and self.study.stopping != "now":
            if self.interrupts.count:
                self._wind_down(GRACE)
                return
            self._fill()
            self._turn(TICK)
            self._tick()

    def _wind_down(self, seconds: float) -> None:
        """Lets running trials end, unless there is a second interrupt."""
        self.study.stopping = "interrupted"
        self.study.emit("stopping", seconds=seconds, trials=sorted(self.study.running))
        deadline = time.monotonic() + seconds
        while self.study.running and self.interrupts.count < 2 and time.monotonic() < deadline:
            self._turn(TICK)
            self._tick()

    def close(self) -> None:
        for slot in self.slots:
            if slot.worker is not None:
                slot.worker.end(at_once=slot.plan is not None)
            if slot.plan is not None:
                self.study.leave(slot.plan.number)

    def _fill(self) -> None:
        for index, slot in enumerate(self.slots):
            if slot.plan is not None:
                continue
            plan = self.study.ask()
            if plan is None:
                return
            slot.plan = plan
            if slot.worker is None:  # what it takes to start is no silence: it says when it is up
                slot.worker = Worker.start(self.study, index, slot.environment, self.limits)
            else:
                self.silence.begin(plan.number)
            slot.worker.send({"run": plan.to_json()})

    def _turn(self, timeout: float) -> None:
        """Handles whatever workers have said, waiting up to `timeout` seconds for the first."""
        busy = {
            slot.worker.connection: slot
            for slot in self.slots
            if slot.worker is not None and slot.plan is not None
        }
        for connection in wait(list(busy), timeout):
            slot = busy[connection]  # type: ignore[index]
            assert slot.worker is not None
            message = slot.worker.receive()
            if message is None:
                self._lost(slot)
            else:
                self._handle(slot, message)

    def _handle(self, slot: _Slot, message: Mapping[str, Any]) -> None:
        assert slot.plan is not None and slot.worker is not None
        number = slot.plan.number
        if "ready" in message:
            self.silence.begin(number)
            return
        self.silence.heard(number)
        if "measurement" in message:
            measurement = Measurement.from_json(message["measurement"])
            slot.worker.send({"go": self.study.observe(number, measurement)})
        elif "outcome" in message:
            outcome = replace(Outcome(**message["outcome"]), worker=slot.worker.name)
            slot.plan = None
            if message.get("leaves"):
                slot.worker.end(at_once=False)
                slot.worker = None
            self.silence.end(number, outcome.state == "complete")
            self.study.tell(number, outcome)

    def _lost(self, slot: _Slot) -> None:
        """A worker died: its trial is retried or failed; the slot gets a new worker."""
        assert slot.plan is not None and slot.worker is not None
        reason, message = slot.worker.why_dead()
        self._fail(slot, Outcome("failed", reason, message, worker=slot.worker.name))

    def _give_up(self, slot: _Slot) -> None:
        """A worker was silent for too long: it may hang for ever."""
        assert slot.worker is not None
        slot.worker.end(at_once=True)
        self._fail(slot, self.silence.outcome(slot.worker.name))

    def _fail(self, slot: _Slot, outcome: Outcome) -> None:
        assert slot.plan is not None
        number = slot.plan.number
        slot.worker, slot.plan = None, None
        self.silence.end(number)
        self.study.tell(number, outcome)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self.last_tick <= TICK:
            return
        self.last_tick = now
        self.study.tick()
        silent = self.silence.lost()
        for slot in self.slots:
            if slot.plan is None or slot.worker is None:
                continue
            if slot.worker.gone():
                self._lost(slot)
            elif slot.plan.number in silent and not slot.worker.connection.poll():
                self._give_up(slot)
