"""What a study says while it runs: lines for a terminal, for a pipe, or JSON.

Progress goes to stderr, results to stdout. A terminal gets a redrawn line for each running trial
and a permanent one for each that ended; a pipe gets the permanent lines and a sign of life.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from hpo._version import __version__
from hpo.problem import Problem, describe

if TYPE_CHECKING:
    from rich.live import Live

    from hpo.result import Result

Style = Literal["terminal", "lines", "json", "quiet"]
HEARTBEAT = 30.0
LINES_A_SECOND = 10
BAR = 16


def style(*, as_json: bool, quiet: bool) -> Style:
    """How to speak: as asked, else by whether stderr is a terminal."""
    if as_json:
        return "json"
    if quiet:
        return "quiet"
    return "terminal" if sys.stderr.isatty() else "lines"


@dataclass
class _Live:
    started: float
    step: int = 0
    progress: float = 0.0
    value: float | None = None
    best: float | None = None
    best_step: int = 0
    point: Mapping[str, Any] = field(default_factory=dict)


class Console:
    """A sink: called with every event of the study."""

    def __init__(
        self, style: Style, metric: str, direction: str, err: TextIO | None = None
    ) -> None:
        self.style: Style = style
        self.metric, self.direction = metric, direction
        self.err = err or sys.stderr
        self._running: dict[int, _Live] = {}
        self._live: Live | None = None
        self._last_line = time.monotonic()
        self._window: list[float] = []
        self._unprinted = 0
        self._ended = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if self.style == "json":
            self._json(event)
        handle = getattr(self, f"_on_{kind}", None)
        if handle is not None:
            handle(event)
        if self.style == "terminal":
            self._redraw()
        elif self.style == "lines" and time.monotonic() - self._last_line > HEARTBEAT:
            self._heartbeat()

    def header(self, problem: Problem, folder: Path, mlruns: Path, slots: str) -> None:
        """Objective, sampler, knobs, budget and folder, before anything runs."""
        for line in header(problem, folder, slots):
            self.line(line)
        for note in problem.notes:
            self.line(f"note        {note}")
        if problem.spec.mlflow and not problem.spec.tracking_uri:
            database = mlruns / "mlflow.db"
            if not database.exists():
                text = f"creating {shown(database)} (a few seconds, once)"
                self.line(f"first run here: {text}")
        self.line("")

    def line(self, text: str) -> None:
        """One permanent line."""
        if self.style in {"quiet", "json"}:
            return
        self._last_line = time.monotonic()
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.err, flush=True)

    def close(self) -> None:
        """Stops redrawing; says how many endings were not printed one by one."""
        if self._unprinted:
            self.line(f"… and {self._unprinted} more trials ended")
            self._unprinted = 0
        if self._live is not None:
            self._live.stop()
            self._live = None

    # -- events ---------------------------------------------------------------------------------

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self._running[event["trial"]] = _Live(time.monotonic())

    def _on_measurement(self, event: Mapping[str, Any]) -> None:
        live = self._running.setdefault(event["trial"], _Live(time.monotonic()))
        value = event["metrics"].get(self.metric)
        live.step, live.progress = event["step"], event["progress"]
        live.value, live.point = value, event["point"]
        lower = self.direction == "minimize"
        if value is not None and (
            live.best is None or (value < live.best if lower else value > live.best)
        ):
            live.best, live.best_step = value, event["step"]

    def _on_retry(self, event: Mapping[str, Any]) -> None:
        self._running.pop(event["trial"], None)
        how = "alone" if event["reason"] == "oom" else "again"
        self.line(f"trial {event['trial']}   {event['message']}; it is tried {how}")

    def _on_end(self, event: Mapping[str, Any]) -> None:
        self._running.pop(event["trial"], None)
        self._ended += 1
        if self._may_print() or event["outcome"] == "failed":
            self.line(ending(event, self.metric))
        else:
            self._unprinted += 1

    def _on_stopping(self, event: Mapping[str, Any]) -> None:
        trials = event["trials"]
        running = ", ".join(
            f"trial {number} is at {self._running[number].progress:.0%}"
            for number in trials
            if number in self._running
        )
        if running:
            wait = f"waiting up to {event['seconds']:.0f}s (Ctrl-C again to drop it)"
            self.line(f"stopping: {running}, {wait}")

    # -- drawing --------------------------------------------------------------------------------

    def _may_print(self) -> bool:
        now = time.monotonic()
        self._window = [moment for moment in self._window if now - moment < 1.0]
        if len(self._window) >= LINES_A_SECOND:
            return False
        self._window.append(now)
        if self._unprinted:
            self.line(f"… {self._unprinted} more trials ended")
            self._unprinted = 0
        return True

    def _heartbeat(self) -> None:
        running = ", ".join(
            f"trial {number} at {live.progress:.0%}" for number, live in self._running.items()
        )
        self.line(f"…       {self._ended} trials ended   {running}")

    def _redraw(self) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            if not self._running:
                return
            self._live = Live(
                console=RichConsole(file=self.err, highlight=False),
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        lines = [_progress_line(n, live, self.metric) for n, live in self._running.items()]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))

    def _json(self, event: Mapping[str, Any]) -> None:
        names = {"start": "plan", "measurement": "measurement", "end": "outcome"}
        kind = names.get(event["event"], event["event"])
        print(json.dumps({"format": 1, **event, "event": kind}), flush=True)


def header(problem: Problem, folder: Path, slots: str) -> list[str]:
    """The three lines a study begins with."""
    spec = problem.spec
    note = getattr(problem.target, "note", "")
    objective = f"{spec.objective} ({note})" if note else spec.objective
    knobs = "   ".join(f"{name} {describe(domain)}" for name, domain in problem.space.items())
    budget = f"{spec.budget.trials} trial{'' if spec.budget.trials == 1 else 's'}"
    if problem.training is not None:
        budget += f" x {problem.training.steps} steps"
    if spec.seeds > 1:
        budget += f" x {spec.seeds} seeds"
    if spec.budget.time:
        budget += f", at most {duration(spec.budget.time)}"
    lines = [
        f"hpo {__version__}   study {spec.name}   objective {objective}   sampler {spec.sampler}"
        f"   {slots}",
        f"knobs       {knobs}",
    ]
    if spec.fixed:
        fixed = "   ".join(f"{name} {number(value)}" for name, value in spec.fixed.items())
        lines.append(f"fixed       {fixed}")
    return [*lines, f"budget      {budget}        folder {shown(folder)}"]


def ending(event: Mapping[str, Any], metric: str) -> str:
    """The permanent line of a trial that ended."""
    trial = f"trial {event['trial']}"
    seconds = duration(event["metrics"].get("seconds", 0.0))
    best = event["metrics"].get(f"best/{metric}")
    if event["outcome"] == "failed":
        return f"{trial}   failed   {event['message'] or event['reason']}   {seconds}"
    value = f"{metric} {number(best)}" if best is not None else ""
    return (
        f"{trial}   {'done' if event['outcome'] == 'complete' else 'pruned'}   {value}   {seconds}"
    )


def closing(result: Result) -> list[str]:
    """The block a study ends with: best against start, where things are, the next commands."""
    best, spec = result.best, result.spec
    if best is None:
        return []
    held = "" if best.holdout is None else f" (hold-out {number(best.holdout)})"
    text = f"trial {best.number}, {spec.metric} {number(best.value)}{held}"
    start = result.start
    if start is not None and start.value is not None and start.number != best.number:
        also = "" if start.holdout is None else f", hold-out {number(start.holdout)}"
        text += f"; the start values reached {number(start.value)}{also}"
    elif start is not None and start.number == best.number:
        text += "; these are the start values: nothing better was found"
    lines = ["", f"best      {text}", f"schedule  {shown(result.folder.schedule)}"]
    if spec.mlflow:
        where = spec.tracking_uri or shown(result.folder.mlruns / "mlflow.db")
        lines.append(f"mlflow    {where}")
    return [
        *lines,
        "next      hpo schedule      look at what was discovered",
        "          hpo show          every trial of the study",
        "          hpo ui            compare the runs in MLflow",
    ]


def number(value: Any) -> str:
    """A number in few characters; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, tuple | list):
            return "(" + ", ".join(number(entry) for entry in value) + ")"
        return str(value)
    if value == 0 or isinstance(value, int):
        return str(value) if isinstance(value, int) else "0"
    if abs(value) < 1e-2 or abs(value) >= 1e5:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Seconds as 0.3s, 24s, 3m10s or 2h05m."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 120:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def shown(path: Path) -> str:
    """A path as short as it can be written from the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _progress_line(trial: int, live: _Live, metric: str) -> str:
    filled = round(BAR * live.progress)
    bar = "#" * filled + "-" * (BAR - filled)
    parts = [f"trial {trial}", bar, f"{live.progress:4.0%}"]
    if live.value is not None and live.best is not None:
        parts.append(f"{metric} {number(live.value)}")
        parts.append(f"best {number(live.best)} @{live.best_step}")
    parts.extend(f"{name} {number(value)}" for name, value in list(live.point.items())[:4])
    if live.progress >= 0.05:
        spent = time.monotonic() - live.started
        parts.append(f"eta {duration(spent * (1 - live.progress) / live.progress)}")
    return "   ".join(parts)
