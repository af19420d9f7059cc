"""Trials in processes of this machine: one worker a slot, asked and told by the driver.

A slot asks as soon as it is free, so no trial waits for another. With no workers at all, trials run
one after another in the driver's own process, for notebooks and debuggers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from hpo.engines import GRACE, TICK, Engine, Slots
from hpo.engines._devices import environments
from hpo.engines._process import Worker
from hpo.engines._silence import Silence
from hpo.interrupts import Interrupts
from hpo.packing import drain_together
from hpo.trial import Outcome, Plan
from objectives.training.measurement import Measurement

if TYPE_CHECKING:
    from hpo.study import Study


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
        plans = study.ask_together(study.spec.pack)
        if plans:
            _drain(study, plans, interrupts)


def _drain(study: Study, plans: Sequence[Plan], interrupts: Interrupts) -> None:
    def observe(number: int, measurement: Measurement) -> bool:
        with interrupts.raising(False):
            study.tick()
            goes_on = study.observe(number, measurement)
        interrupts.check()
        return goes_on and study.stopping != "now"

    def next_outcome() -> tuple[int, Outcome] | None:
        # What an objective prints must not mix with results on stdout.
        with interrupts.raising(True), redirect_stdout(sys.stderr):
            return next(outcomes, None)

    try:
        with closing(drain_together(study.problem, plans, observe)) as outcomes:
            while (ended := next_outcome()) is not None:
                number, outcome = ended
                # A trial that did not run to its end because it was told to stop stays open.
                if outcome.state != "complete" and (interrupts.count or study.stopping == "now"):
                    study.leave(number)
                else:
                    study.tell(number, outcome)
    except BaseException:
        for plan in plans:
            study.leave(plan.number)
        raise


@dataclass
class _Slot:
    """`trials`: the numbers of those that its worker carries out."""

    environment: Mapping[str, str]
    worker: Worker | None = None
    trials: set[int] = field(default_factory=set)


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
                slot.worker.end(at_once=bool(slot.trials))
            for number in slot.trials:
                self.study.leave(number)

    def _fill(self) -> None:
        for index, slot in enumerate(self.slots):
            if slot.trials:
                continue
            plans = self.study.ask_together(self.study.spec.pack)
            if not plans:
                return
            slot.trials = {plan.number for plan in plans}
            if slot.worker is None:  # what it takes to start is no silence: it says when it is up
                slot.worker = Worker.start(self.study, index, slot.environment, self.limits)
            else:
                self._begin(slot)
            slot.worker.send({"run": [plan.to_json() for plan in plans]})

    def _turn(self, timeout: float) -> None:
        """Handles whatever workers have said, waiting up to `timeout` seconds for the first."""
        busy = {
            slot.worker.connection: slot
            for slot in self.slots
            if slot.worker is not None and slot.trials
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
        assert slot.worker is not None
        if "ready" in message:
            self._begin(slot)
            return
        number = message.get("trial")
        if number not in slot.trials:
            return
        self.silence.heard(number)
        if "measurement" in message:
            measurement = Measurement.from_json(message["measurement"])
            slot.worker.send({"go": self.study.observe(number, measurement)})
        elif "outcome" in message:
            outcome = replace(Outcome(**message["outcome"]), worker=slot.worker.name)
            slot.trials.remove(number)
            if message.get("leaves") and not slot.trials:
                slot.worker.end(at_once=False)
                slot.worker = None
            self.silence.end(number, outcome.state == "complete")
            self.study.tell(number, outcome)

    def _lost(self, slot: _Slot) -> None:
        """A worker died: its trials are retried or failed; the slot gets a new worker."""
        assert slot.worker is not None
        reason, message = slot.worker.why_dead()
        self._fail(slot, Outcome("failed", reason, message, worker=slot.worker.name))

    def _give_up(self, slot: _Slot) -> None:
        """A worker was silent for too long: it may hang for ever."""
        assert slot.worker is not None
        slot.worker.end(at_once=True)
        self._fail(slot, self.silence.outcome(slot.worker.name))

    def _fail(self, slot: _Slot, outcome: Outcome) -> None:
        numbers = sorted(slot.trials)
        slot.worker, slot.trials = None, set()
        for number in numbers:
            self.silence.end(number)
            self.study.tell(number, outcome)

    def _begin(self, slot: _Slot) -> None:
        for number in slot.trials:
            self.silence.begin(number)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self.last_tick <= TICK:
            return
        self.last_tick = now
        self.study.tick()
        silent = set(self.silence.lost())
        for slot in self.slots:
            if not slot.trials or slot.worker is None:
                continue
            if slot.worker.gone():
                self._lost(slot)
            elif slot.trials.issubset(silent) and not slot.worker.connection.poll():
                self._give_up(slot)
