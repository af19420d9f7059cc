"""Which running trials have not been heard of for too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from hpo.trial import Outcome

LEAST = 600.0
TIMES_THE_LONGEST = 20.0
LOOK = 2.0


class Silence:
    """The time since each trial was last heard of, against a limit.

    Without a limit given: twenty times the longest wait that this study has known, and ten minutes
    at least; none before a trial has come to its end, for what a trial does last may take longest.

    Between two looks at most 2 s are counted: a driver that was stopped, suspended or busy has
    heard of nobody, and that is not the fault of the trials.
    """

    def __init__(
        self, limit: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._given, self._clock = limit, clock
        self._looked, self._awake = clock(), 0.0
        self._longest: float | None = None
        self._one_is_over = False
        self._heard: dict[Hashable, float] = {}

    @property
    def limit(self) -> float | None:
        """Seconds after which a trial counts as lost; None: it is not known yet."""
        if self._given is not None or self._longest is None or not self._one_is_over:
            return self._given
        return max(LEAST, TIMES_THE_LONGEST * self._longest)

    def begin(self, trial: Hashable) -> None:
        """A trial has been started."""
        self._heard[trial] = self._now()

    def heard(self, trial: Hashable) -> None:
        """A trial has given a sign of life."""
        now = self._now()
        waited = now - self._heard.get(trial, now)
        self._longest = max(waited, self._longest or 0.0)
        self._heard[trial] = now

    def end(self, trial: Hashable, complete: bool = False) -> None:
        """A trial is over; `complete`: it has done all that it does."""
        self._heard.pop(trial, None)
        self._one_is_over |= complete

    def lost(self) -> list[Hashable]:
        """The trials that have been silent for longer than the limit."""
        limit, now = self.limit, self._now()
        if limit is None:
            return []
        return [trial for trial, heard in self._heard.items() if now - heard > limit]

    def outcome(self, worker: str) -> Outcome:
        """How a trial ended that was given up now."""
        message = f"it gave no sign of life for {self.limit or 0.0:g} s (silence)"
        return Outcome("failed", "lost", message, worker=worker)

    def _now(self) -> float:
        """The seconds in which someone has been looking."""
        now = self._clock()
        self._awake += min(now - self._looked, LOOK)
        self._looked = now
        return self._awake
