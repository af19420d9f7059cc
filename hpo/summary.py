"""The lines a study begins with, those of trials that ended, and the block it ends with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import ended
from hpo._version import __version__
from hpo.errors import printable
from hpo.masking import without_password
from hpo.problem import Problem
from hpo.wording import (
    describe,
    duration,
    knob,
    mlruns_option,
    number,
    plural,
    shown,
    wrapped,
)

if TYPE_CHECKING:
    from hpo.ledger import TrialRecord
    from hpo.result import Result

LONGEST_MESSAGE = 200
_INDEX = re.compile(r"/(\d+) ")  # of the worker, in a name such as host/0 cuda:1


def header(problem: Problem, folder: Path, slots: str) -> list[str]:
    """Objective, sampler, knobs, budget and folder, in a few lines."""
    spec = problem.spec
    note = getattr(problem.target, "note", "")
    objective = f"{spec.objective} ({note})" if note else spec.objective
    budget = plural(spec.budget.trials, "trial")
    if problem.training is not None:
        budget += f" x {problem.training.steps} steps"
    if spec.seeds > 1:
        budget += f" x {spec.seeds} seeds"
    if spec.budget.time:
        budget += f", none begins after {duration(spec.budget.time)}"
    if spec.budget.plateau:
        budget += f", until {spec.budget.plateau} in a row are no better"
    lines = [
        f"hpo {__version__}   study {spec.name}   objective {objective}   sampler {spec.sampler}"
        f"   {slots}",
        *wrapped("knobs", [f"{name} {describe(domain)}" for name, domain in problem.space.items()]),
    ]
    if problem.fixed:
        domains = problem.fixed_domains
        held = [f"{name} {knob(domains[name], value)}" for name, value in problem.fixed.items()]
        lines += wrapped("fixed", held)
    lines.append(f"budget      {budget}        folder {shown(folder)}")
    if spec.mlflow and spec.tracking_uri:
        lines.append(f"mlflow      {_tracked(spec.tracking_uri)}")
    return lines + [f"note        {note}" for note in problem.notes]


def _tracked(uri: str) -> str:
    """The address without a password, and whether it was taken from the environment."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip().rstrip("/")
    origin = "  (MLFLOW_TRACKING_URI)" if uri == named else ""
    return f"{printable(without_password(uri))}{origin}"


def ending(event: Mapping[str, Any], metric: str) -> str:
    """The permanent line of a trial that ended."""
    trial = f"trial {event['trial']}"
    seconds = duration(event["metrics"].get("seconds", 0.0))
    best = event["metrics"].get(f"best/{metric}")
    if event["outcome"] == "failed":
        return f"{trial}   failed   {first_line(event['message'] or event['reason'])}   {seconds}"
    word = "done" if event["outcome"] == "complete" else "pruned"
    value = "" if best is None else f"   {metric} {number(best)}"
    return f"{trial}   {word}{value}   {seconds}"


def first_line(message: str) -> str:
    """What a line has room for of a message that came from elsewhere."""
    line = printable(message.strip().splitlines()[0]) if message.strip() else ""
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def worker_log(result: Result, record: TrialRecord) -> Path | None:
    """What the worker printed with which a trial was lost or ran out of memory, if anything."""
    index = _INDEX.search(record.worker)
    if record.reason not in {"oom", "lost"} or index is None:
        return None
    log = result.folder.path / f"worker-{index.group(1)}.log"
    return log if log.exists() and log.stat().st_size else None


def against_start(start: TrialRecord | None, best: int) -> str:
    """What the trial of the start values came to, in brackets behind what the best one did."""
    if start is None or start.number == best:
        return ""
    if start.state == "failed":
        return " (start values failed)"
    return "" if start.value is None else f" (start values reached {number(start.value)})"


def continuation(result: Result) -> str:
    """How a study that can go on as it is goes on, else nothing."""
    if result.state == "finished" and result.why != "time":
        return ""
    more = f"hpo run --resume --name {result.spec.name}{mlruns_option(result.folder.mlruns)}"
    return f"   continue:  {more}"


def _early(result: Result) -> list[str]:
    """The line of a study that ended before its last trial: why, and how it goes on."""
    trials = result.spec.budget.trials
    if result.ended >= trials:
        return []
    why = ended.told(result.why, result.spec)
    after = f"after {result.ended} of {plural(trials, 'trial')}" + (f": {why}" if why else "")
    return [f"ended     {after}{continuation(result)}"]


def closing(result: Result) -> list[str]:
    """The block a study ends with: best against start, where things are, the next commands."""
    best, spec, start = result.best, result.spec, result.start
    option = mlruns_option(result.folder.mlruns)
    if best is None:
        none = f"no trial has completed yet   folder {shown(result.folder.path)}"
        return ["", none, *_early(result)]
    text = f"trial {best.number}, {spec.metric} {number(best.value)}"
    held = "" if best.holdout is None else number(best.holdout)
    if start is not None and start.number == best.number:
        text += ": these are the start values, nothing better was found"
    else:
        text += against_start(start, best.number)
    if held and start is not None and start.holdout is not None and start.number != best.number:
        held += f" (start values {number(start.holdout)})"
    lines = ["", f"best      {text}"]
    if held:
        lines.append(f"hold-out  {held}: what trials are ranked by")
    lines += _early(result)
    lines.append(f"schedule  {shown(result.folder.schedule)}")
    if spec.mlflow:
        where = spec.tracking_uri or shown(result.folder.mlruns / "mlflow.db")
        lines.append(f"mlflow    {printable(without_password(where))}")
    commands = {"hpo schedule": "look at what was discovered", "hpo show": "every trial"}
    if spec.mlflow:
        commands["hpo ui"] = "compare the runs in MLflow"
    width = max(len(command) for command in commands) + len(option) + 6
    following = [f"{command + option:{width}}{why}" for command, why in commands.items()]
    return lines + [f"{'next' if i == 0 else '':10}{line}" for i, line in enumerate(following)]
