"""Where a trial is measured, which is what pruners count in."""

from __future__ import annotations

from dataclasses import dataclass

WARMUP = 0.2  # the share of the steps in which curves are too young to be compared


@dataclass(frozen=True)
class Steps:
    """Where a trial is measured: the first step, and the last one where it is known."""

    first: int = 1
    last: int | None = None

    @property
    def warmup(self) -> int:
        return 0 if self.last is None else int(WARMUP * self.last)
