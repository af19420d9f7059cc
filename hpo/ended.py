"""Why a study ended: written by its driver into the last event, read back by whoever asks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpo import samplers
from hpo.spec import StudySpec
from hpo.wording import duration

if TYPE_CHECKING:
    from hpo.study import Study

# Reasons after which nothing is left to do, though trials of the budget are left. Another run of a
# study that ran out of time has its time again.
FINISHED = frozenset({"plateau", "exhausted", "time"})
PIECE = 65536


def why(study: Study) -> str:
    """Why a study that nobody stopped asks for no further trial: trials, failures, plateau,
    exhausted (its sampler has proposed all it has) or time."""
    budget, tally = study.spec.budget, study.tally
    if tally.asked >= budget.trials:
        return "trials"
    if tally.hopeless:
        return "failures"
    if budget.plateau is not None and tally.since_best >= budget.plateau:
        return "plateau"
    sampler = samplers.load(study.spec.sampler)
    options = samplers.parse_options(sampler, study.spec.sampler_options, study.spec.sampler)
    request = samplers.Request(study.problem.space.coordinates(), options, budget.trials)
    if samplers.exhausted(sampler, study.optuna, request):
        return "exhausted"
    return "time" if budget.time is not None else ""


def read(spool: Path) -> str:
    """The reason in the last event of a spool; "" if a study has begun again since, or was cut off.

    Only the last line is read, for a spool may be large.
    """
    try:
        event = json.loads(_last_line(spool))
    except (OSError, ValueError):
        return ""
    closed = isinstance(event, dict) and event.get("event") == "close"
    return str(event.get("why", "")) if closed else ""


def told(reason: str, spec: StudySpec) -> str:
    """Why a study is finished before its last trial, in words; "" for any other reason."""
    budget = spec.budget
    words = {
        "plateau": f"no better trial in the last {budget.plateau}",
        "exhausted": f"sampler {spec.sampler} has proposed all it has",
        "time": f"its time was up ({duration(budget.time or 0.0)} a run)",
    }
    return words.get(reason, "")


def _last_line(path: Path) -> bytes:
    """The last line of a file if it is whole, else nothing."""
    with path.open("rb") as file:
        begin, line = file.seek(0, os.SEEK_END), b""
        while begin and b"\n" not in line[:-1]:
            end, begin = begin, max(0, begin - PIECE)
            file.seek(begin)
            line = file.read(end - begin) + line
    return line[:-1].rpartition(b"\n")[2] if line.endswith(b"\n") else b""
