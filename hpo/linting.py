"""What is found of a study's bilevel problem before its first trial, and kept beside it."""

from __future__ import annotations

import io
import json
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING

from hpo import tuning
from hpo.errors import HpoError
from hpo.folder import Folder, replace_json
from hpo.problem import Problem
from search_spaces.domains import Choice, Int

if TYPE_CHECKING:
    from hpo.bilevel.implicit.linter import Findings
    from hpo.samplers import Sampler


def linted(problem: Problem) -> Problem:
    """The problem with the knobs that its sampler cannot descend in as `idle`, and notes that say
    why; as it is where the sampler descends nothing.

    Raises HpoError if no knob is left, or if the losses cannot be descended in at all.
    """
    sampler, options = tuning.method(problem)
    if problem.is_task and sampler.tune is not None:
        stiff = tuning.stiff(problem).items()
        said = (f"knob {name} {why}: left to sampler {options.propose}" for name, why in stiff)
        return replace(problem, notes=(*problem.notes, *said))
    if not problem.is_bilevel or sampler.descend is None:
        return problem
    found = _findings(problem, sampler)
    left = f"left to sampler {options.propose}"
    notes = [f"knob {name} {why}: {left}" for name, why in found.idle.items()]
    for name, domain in problem.space.items():
        if isinstance(domain, Choice | Int):
            kind = "choice" if isinstance(domain, Choice) else "whole number"
            notes.append(f"knob {name} is a {kind}: {left}")
    if getattr(options, "certified", False) and not _bounded(problem):
        notes.append("errors are estimates: bounds need mu and outer_smoothness of the problem")
    looked = replace(
        problem,
        idle=problem.idle | {*found.idle},
        notes=(*problem.notes, *notes, *found.notes),
    )
    if not tuning.tunable(looked, problem.space.start):
        raise HpoError(
            f"sampler {problem.spec.sampler} can tune none of {', '.join(problem.space)} within a"
            " run",
            hint="\n".join(f"knob {name} {why}" for name, why in found.idle.items()),
            code="refused",
            path=("space",),
        )
    return looked


def _bounded(problem: Problem) -> bool:
    return all(callable(getattr(problem.target, n, None)) for n in ("mu", "outer_smoothness"))


def _findings(problem: Problem, sampler: Sampler) -> Findings:
    from hpo.bilevel.implicit.linter import lint
    from objectives.training.blame import described

    spec = problem.spec
    start = problem.schedule(problem.space.start_coordinates()).at(0.0)
    domains, point = tuning.tunable(problem, start), tuning.whole_point(problem, start)
    try:
        # What the objective prints and warns of is for its workers' logs.
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            return lint(problem.target, domains, point, spec.seed, twice=sampler.twice)
    except HpoError as error:
        error.message = f"objective {spec.objective}: {error.message}"
        raise error.under("objective") from None
    except Exception as error:
        raise HpoError(
            f"objective {spec.objective}: its losses at the start values raised {described(error)}",
            hint="the error is in its methods, not in hpo",
            code="objective-failed",
            path=("objective",),
        ) from error


def keep(problem: Problem, folder: Folder) -> None:
    """Writes down what was found, for when the study is resumed: nothing is looked at twice."""
    if problem.is_bilevel and problem.notes:
        found = {"idle": sorted(problem.idle), "notes": [*problem.notes]}
        replace_json(folder.findings, found)


def kept(problem: Problem, folder: Folder) -> Problem:
    """The problem with what was found when its study began."""
    if not folder.findings.exists():
        return problem
    try:
        found = json.loads(folder.findings.read_text(encoding="utf-8"))
        idle, notes = frozenset(map(str, found["idle"])), tuple(map(str, found["notes"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise HpoError(
            f"{folder.findings}: what was found of the problem is damaged",
            hint="restore the file from a copy",
            code="damaged-findings",
        ) from error
    return replace(problem, idle=idle, notes=notes)
