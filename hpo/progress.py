"""A running trial as a line that is redrawn: bar, step, metric, best, knobs, time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpo.ledger import better
from hpo.wording import duration, knob, number

if TYPE_CHECKING:
    from search_spaces.domains import Domain

BAR = 16
ETA_FROM = 0.05  # of a trial: before it, the time of a step is not known well enough


@dataclass
class Running:
    """A trial that runs, as far as its measurements tell.

    `best` is the metric at `best_step`, the step with the best `score` (on the selection hold-out
    where there is one). `clocked` is when it was `clocked_at` for the first time: what a worker
    needs to start is not what its steps need.
    """

    clocked: float
    clocked_at: float = 0.0
    step: int = 0
    progress: float = 0.0
    value: float | None = None
    score: float | None = None
    best: float | None = None
    best_step: int = 0
    point: Mapping[str, Any] = field(default_factory=dict)

    def left(self, now: float) -> float | None:
        """Seconds to the end, None as long as the time of a step is not known well enough."""
        done = self.progress - self.clocked_at
        if self.progress < ETA_FROM or done <= 0:
            return None
        return (now - self.clocked) * (1 - self.progress) / done

    def take(self, event: Mapping[str, Any], metric: str, direction: str, now: float) -> None:
        """Takes in a measurement."""
        metrics, value = event["metrics"], event["metrics"].get(metric)
        if not self.step and event["progress"] < ETA_FROM:
            self.clocked, self.clocked_at = now, event["progress"]
        self.step, self.progress = event["step"], event["progress"]
        self.value, self.point = value, event["point"]
        score = metrics.get(f"holdout_{metric.removeprefix('val_')}", value)
        if value is not None and better(score, self.score, direction):
            self.score, self.best, self.best_step = score, value, event["step"]


@dataclass(frozen=True)
class Shape:
    """What the lines of one study have in common. `steps` is None where a trial counts its own."""

    metric: str
    steps: int | None
    space: Mapping[str, Domain]
    width: int

    def line(self, trial: int, running: Running, now: float) -> str:
        """The line of a trial, with as many knobs as fit between best and time left."""
        filled = round(BAR * running.progress)
        steps = f"{running.progress:4.0%}"
        if self.steps is not None:
            steps = f"{running.step:{len(str(self.steps))}}/{self.steps}"
        first = [f"trial {trial}", "#" * filled + "-" * (BAR - filled), steps]
        if running.value is not None:
            first.append(f"{self.metric} {number(running.value)}")
        left = running.left(now)
        last = [] if left is None else [f"eta {duration(left)}"]
        middle = []
        if running.best is not None:
            middle.append(f"best {number(running.best)} @{running.best_step}")
        middle += [f"{n} {knob(self.space.get(n), v)}" for n, v in running.point.items()]
        return _fitted(first, middle, last, self.width)


def _fitted(first: Sequence[str], middle: Sequence[str], last: Sequence[str], width: int) -> str:
    """All that fits a line, the entries in the middle given up from behind."""
    kept = list(middle)
    while kept and len("   ".join([*first, *kept, *last])) >= width:
        kept.pop()
    return "   ".join([*first, *kept, *last])
