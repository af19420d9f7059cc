"""Which running trials have not been heard of for too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

LEAST = 600.0
TIMES_THE_LONGEST = 20.0


class Silence:
    """The time since each trial was last heard of, against a limit.

    Without a limit given: twenty times the longest wait that this study has known, and ten minutes
    at least; none before the first wait is over.
    """

    def __init__(
        self, limit: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._given, self._clock = limit, clock
        self._longest: float | None = None
        self._heard: dict[Hashable, float] = {}

    @property
    def limit(self) -> float | None:
        """Seconds after which a trial counts as lost; None: it is not known yet."""
        if self._given is not None or self._longest is None:
            return self._given
        return max(LEAST, TIMES_THE_LONGEST * self._longest)

    def begin(self, trial: Hashable) -> None:
        """A trial has been started."""
        self._heard[trial] = self._clock()

    def heard(self, trial: Hashable) -> None:
        """A trial has given a sign of life."""
        now = self._clock()
        waited = now - self._heard.get(trial, now)
        self._longest = max(waited, self._longest or 0.0)
        self._heard[trial] = now

    def end(self, trial: Hashable) -> None:
        """A trial is over."""
        self._heard.pop(trial, None)

    def lost(self) -> list[Hashable]:
        """The trials that have been silent for longer than the limit."""
        limit, now = self.limit, self._clock()
        if limit is None:
            return []
        return [trial for trial, heard in self._heard.items() if now - heard > limit]
