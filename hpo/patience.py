"""A ledger whose database goes away and comes back: what is written waits for it, and is written
once.

A connection that is lost while something is being written leaves open whether it was. So what would
do harm if it were done twice is looked for before it is repeated.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError, Unavailable
from hpo.interrupts import Interrupts
from hpo.masking import without_password
from hpo.wording import duration

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.engine import Engine, ExceptionContext

PATIENCE = 600.0  # a server that is updated, fails over or starts anew is back by then
_PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)


class Unreachable(Exception):
    """The database did not answer, or could not do what it was asked for reasons of its own.

    Not an error of SQLAlchemy's: Optuna repeats some operations on those, without looking.
    """


@dataclass(frozen=True)
class Waiting:
    """How long to wait for a database that is away, whom to tell, and what ends it early."""

    seconds: float = 0.0
    warn: Callable[[str], None] = print
    stops: Callable[[], bool] = lambda: False


class Patient:
    """Optuna's storage over a database, each operation of which waits while that is away.

    Raises Unavailable once it has been away for too long, and from then on; KeyboardInterrupt where
    the user did not want to wait. `returns` is called before anything is repeated.
    """

    def __init__(self, storage: BaseStorage, engine: Engine, url: str, waiting: Waiting) -> None:
        from sqlalchemy import event

        self.impatient = storage
        self.returns: Callable[[], None] = lambda: None
        self._engine, self._url, self._waiting = engine, without_password(url), waiting
        self._ended: HpoError | None = None
        event.listen(engine, "handle_error", _unreachable)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.impatient, name)
        return partial(self.patiently, found) if callable(found) else found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        # Whoever drives the study is its only writer: it knows all trials but the one in question.
        known = len(self.impatient._trial_id_to_study_id_and_number)  # type: ignore[attr-defined]

        def made() -> int | None:
            trials = self.impatient.get_all_trials(study_id, deepcopy=False)
            return trials[-1]._trial_id if len(trials) > known else None

        create = partial(self.impatient.create_new_trial, study_id, template_trial)
        created: int = self.patiently(create, look=made)
        return created

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        def done() -> bool | None:
            return True if self.impatient.get_trial(trial_id).state == state else None

        change = partial(self.impatient.set_trial_state_values, trial_id, state, values)
        changed: bool = self.patiently(change, look=done)
        return changed

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def renew(self) -> None:
        """Nothing: connections are made anew when they are needed."""

    release = close

    def patiently(
        self,
        operation: Callable[..., Any],
        *arguments: Any,
        look: Callable[[], Any] = lambda: None,
        **keywords: Any,
    ) -> Any:
        """What an operation gives, however often it must be tried; from the second time on what
        `look` finds, if that is something."""
        if self._ended is not None:
            raise self._ended

        def once_more() -> Any:
            self.returns()
            found = look()
            return operation(*arguments, **keywords) if found is None else found

        try:
            return operation(*arguments, **keywords)
        except Unreachable as error:
            with Interrupts() as interrupts:
                found = self._tried_again(once_more, error, interrupts)
            if interrupts.count:  # it has not come to the end of the waiting: to whom it was meant
                signal.raise_signal(signal.SIGINT)
            return found

    def _tried_again(
        self, operation: Callable[[], Any], error: Unreachable, interrupts: Interrupts
    ) -> Any:
        outage = _Outage()
        while True:
            self._wait(outage, error, interrupts)
            try:
                return operation()
            except Unreachable as again:
                error = again

    def _wait(self, outage: _Outage, error: Unreachable, interrupts: Interrupts) -> None:
        left = self._waiting.seconds - (time.monotonic() - outage.began)
        if left <= 0:
            self._ended = self._away(outage, error)
            raise self._ended from error
        if outage.tried == 1:  # not at once: a connection may merely have grown old
            self._waiting.warn(
                f"the ledger has been unreachable since {outage.clock} ({error}); waiting for it"
                f" for up to {duration(self._waiting.seconds)}, nothing is lost"
            )
        deadline = time.monotonic() + min(left, _PAUSES[min(outage.tried, len(_PAUSES) - 1)])
        outage.tried += 1
        while (pause := deadline - time.monotonic()) > 0:
            if interrupts.count or self._waiting.stops():
                self._ended = self._away(outage, error)
                raise KeyboardInterrupt
            time.sleep(min(pause, 0.2))

    def _away(self, outage: _Outage, error: Unreachable) -> HpoError:
        if not self._waiting.seconds:
            return Unavailable(
                f"storage {self._url}: {error}",
                hint="it holds the trials of this study: start its server, then try again",
                code="ledger-unreachable",
            )
        return Unavailable(
            f"storage {self._url}: unreachable since {outage.clock}: {error}",
            hint="nothing is lost: once it is back, continue with hpo run --resume",
            code="ledger-unreachable",
        )


class _Outage:
    """When the database went away, and how often it has been tried since."""

    def __init__(self) -> None:
        self.began, self.clock, self.tried = time.monotonic(), time.strftime("%H:%M:%S"), 0


def _unreachable(context: ExceptionContext) -> None:
    """Turns what a database fails to do into Unreachable; not what it was wrongly asked for."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    error = context.sqlalchemy_exception
    if context.is_pre_ping:
        return
    if context.is_disconnect or isinstance(error, OperationalError | InterfaceError):
        said = str(context.original_exception).strip().splitlines() or [type(error).__name__]
        raise Unreachable(without_password(said[0])) from context.original_exception
