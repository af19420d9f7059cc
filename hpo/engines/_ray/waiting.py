"""When to say that no trial runs because there is no room for one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hpo.engines._ray.cluster import Cluster

BUSY = "the cluster: it is in use, or its workers do not start (ray status)"
NO_NODES = 10.0  # seconds without a running trial after which a user hears of it
NO_ROOM = 60.0  # the same where a worker may be about to start


@dataclass
class Waiting:
    """The time since a trial ran last."""

    cluster: Cluster
    _since: float = field(default_factory=time.monotonic)
    _told: bool = False

    def over(self) -> None:
        """A trial runs."""
        self._since, self._told = time.monotonic(), False

    @property
    def is_long(self) -> bool:
        """Whether no worker that is there, or about to start, can be what is waited for."""
        waited = time.monotonic() - self._since
        return waited > NO_NODES and (waited > NO_ROOM or not self.cluster.has_place())

    def reason(self) -> str | None:
        """What is waited for if it is time to say so, which it is once until a trial runs."""
        if self._told or not self.is_long:
            return None
        self._told = True
        return BUSY if self.cluster.has_place() else "nodes"
