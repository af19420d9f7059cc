"""What a study says while it runs: lines for a terminal, for a pipe, or JSON.

Progress goes to stderr, results to stdout. A terminal gets a redrawn line for each running trial
and a permanent one for each that ended; a pipe gets the permanent lines and a sign of life.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from hpo.jsonline import json_line
from hpo.problem import Problem
from hpo.progress import Running, Shape
from hpo.summary import ending, first_line, header
from hpo.wording import knob, number, plural
from hpo.wording import shown as shown

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from search_spaces.domains import Domain

Style = Literal["terminal", "lines", "json", "quiet"]
HEARTBEAT = 30.0
LINES_A_SECOND = 10
SAME_MOMENT = 20  # milliseconds between the events of one step of the driver

# What `hpo run --json` calls the events; the others are for MLflow.
JSON_NAMES = {
    "start": "plan",
    "measurement": "measurement",
    "end": "outcome",
    "retry": "retry",
    "exploit": "exploit",
    "stopping": "stopping",
    "waiting": "waiting",
}


def style(*, as_json: bool, quiet: bool) -> Style:
    """How to speak: as asked, else by whether stderr is a terminal that can be redrawn."""
    if as_json:
        return "json"
    if quiet:
        return "quiet"
    redrawn = sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
    return "terminal" if redrawn else "lines"


class Console:
    """A sink: called with every event of the study."""

    def __init__(
        self,
        style: Style,
        metric: str,
        direction: str,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.style: Style = style
        self.metric, self.direction = metric, direction
        self.out, self.err, self.clock = sys.stdout, err or sys.stderr, clock
        self.steps: int | None = None
        self.space: Mapping[str, Domain] = {}
        self._running: dict[int, Running] = {}
        self._given_up = (-1, 0)  # the trial whose attempt was given up last, and when
        self._live: Live | None = None
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None
        self._last_line = clock()
        self._window: list[float] = []
        self._unprinted = 0
        self._ended = 0
        self._best: tuple[float, int] | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.style == "json":
            self._json(event)
        handle = getattr(self, f"_on_{event['event']}", None)
        if handle is not None:
            handle(event)

    def header(self, problem: Problem, folder: Path, mlruns: Path, slots: str) -> None:
        """Objective, sampler, knobs, budget and folder, before anything runs."""
        self.space = problem.space
        self.steps = problem.training.steps if problem.training is not None else None
        if self.style == "json":
            plain = {"spec": problem.spec.shown(), "notes": problem.notes, "folder": str(folder)}
            self._print_json({"event": "header", **plain})
        for line in header(problem, folder, slots):
            self.line(line)
        if problem.spec.mlflow and not problem.spec.tracking_uri:
            database = mlruns / "mlflow.db"
            if not database.exists():
                text = f"creating {shown(database)} (a few seconds, once)"
                self.line(f"first run here: {text}")
        self.line("")

    def line(self, text: str) -> None:
        """One permanent line; nothing where only a result is wanted."""
        if self.style not in {"quiet", "json"}:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A permanent line that is told in every style."""
        self._last_line = self.clock()
        if self._live is not None:
            self._live.refresh()  # else the line would be drawn above what is no longer true
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        with contextlib.suppress(OSError):  # nobody reads any more: the study goes on
            self.err.write(f"{text}\n")
            self.err.flush()

    def close(self) -> None:
        """Stops redrawing; says how many endings were not printed one by one."""
        self._closed.set()
        if self._heart is not None:
            self._heart.join()
        self._catch_up()
        if self._live is not None:
            self._live.stop()
            self._live = None

    # -- events ---------------------------------------------------------------------------------

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self._running[event["trial"]] = Running(self.clock())
        if self.style == "terminal" and self._live is None:
            self._live = self._drawing()
            self._live.start()
        elif self.style == "lines" and self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="hpo-heartbeat", daemon=True)
            self._heart.start()

    def _on_measurement(self, event: Mapping[str, Any]) -> None:
        running = self._running.setdefault(event["trial"], Running(self.clock()))
        running.take(event, self.metric, self.direction, self.clock())
        for note in event.get("notes", ()):
            self.line(f"trial {event['trial']}   note: {first_line(note)}")

    def _on_retry(self, event: Mapping[str, Any]) -> None:
        trial = event["trial"]
        before = self._running.get(trial)
        if before is not None and before.step:
            self._given_up = trial, event["time"]
        self._running[trial] = Running(self.clock())
        how = "alone" if event["reason"] == "oom" else "again"
        self.line(f"trial {trial}   {first_line(event['message'])}; it is tried {how}")

    def _on_exploit(self, event: Mapping[str, Any]) -> None:
        moved = "   ".join(
            f"{name} {knob(self.space.get(name), value)}" for name, value in event["point"].items()
        )
        taken = f"takes over trial {event['donor']} at step {event['step']}"
        self.line(f"trial {event['trial']}   {taken}   {moved}")

    def _on_end(self, event: Mapping[str, Any]) -> None:
        trial = event["trial"]
        if self._given_up[0] == trial and event["time"] - self._given_up[1] < SAME_MOMENT:
            return  # the attempt is over, the trial is not; the retry was told
        running = self._running.pop(trial, None)
        if running is None and event["reason"] == "lost":
            self.line(f"trial {trial}   {first_line(event['message'])}; it begins again")
            return
        self._ended += 1
        if self._may_print() or event["outcome"] == "failed":
            self.line(ending(event, self.metric))
        else:
            self._unprinted += 1

    def _on_best(self, event: Mapping[str, Any]) -> None:
        self._best = event["value"], event["trial"]

    def _on_stopping(self, event: Mapping[str, Any]) -> None:
        running = ", ".join(
            f"trial {number} is at {self._running[number].progress:.0%}"
            for number in event["trials"]
            if number in self._running
        )
        if running:
            wait = f"waiting up to {event['seconds']:.0f}s (Ctrl-C again to drop it)"
            self.line(f"stopping: {running}, {wait}")

    def _on_waiting(self, event: Mapping[str, Any]) -> None:
        self.line(f"no room for {plural(event['trials'], 'trial')}, waiting for {event['for']}")

    # -- drawing --------------------------------------------------------------------------------

    def _may_print(self) -> bool:
        now = self.clock()
        self._window = [moment for moment in self._window if now - moment < 1.0]
        if len(self._window) >= LINES_A_SECOND:
            return False
        self._window.append(now)
        self._catch_up()
        return True

    def _catch_up(self) -> None:
        if self._unprinted:
            self.line(f"…   {self._unprinted} more ended")
            self._unprinted = 0

    def _beat(self) -> None:
        while not self._closed.wait(1.0):
            self.heartbeat()

    def heartbeat(self) -> None:
        """A sign of life for a log, if nothing was said for a while."""
        if self.clock() - self._last_line < HEARTBEAT:
            return
        running = [f"trial {n} at {one.progress:.0%}" for n, one in list(self._running.items())]
        self.line("   ".join(["…", f"{plural(self._ended, 'trial')} ended", ", ".join(running)]))

    def _drawing(self) -> Live:
        from rich.console import Console as RichConsole
        from rich.live import Live

        screen = RichConsole(file=self.err, highlight=False)
        return Live(
            console=screen,
            get_renderable=lambda: self._drawn(screen.width),
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _drawn(self, width: int) -> Text:
        from rich.text import Text

        return Text("\n".join(self.progress(width)), no_wrap=True, overflow="ellipsis")

    def progress(self, width: int) -> list[str]:
        """A line for each running trial, and one for the study."""
        now, shape = self.clock(), Shape(self.metric, self.steps, self.space, width)
        lines = [shape.line(n, one, now) for n, one in list(self._running.items())]
        if not self._ended:
            return lines
        best = ""
        if self._best is not None:
            best = f"   best {self.metric} {number(self._best[0])} (trial {self._best[1]})"
        return [*lines, f"{plural(self._ended, 'trial')} ended{best}"]

    def _json(self, event: Mapping[str, Any]) -> None:
        kind = JSON_NAMES.get(event["event"])
        if kind is not None:
            self._print_json({**event, "event": kind})

    def _print_json(self, data: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more: the study goes on
            print(json_line(data), file=self.out, flush=True)
