"""Sheets of pictures for `hpo show --policy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli import _options
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.result import Result
    from hpo.sheet import Sheet

OBJECTIVE = "fashion_mnist"


def refuse_misuse(study: str | None, policy: str | None, beside: Mapping[str, Any]) -> None:
    """Raises HpoError for options that say nothing together."""
    if policy and study:
        raise HpoError(
            f"--policy {policy} is drawn on an objective, not for study {study}",
            hint=f"hpo show {study} --policy, or hpo show --policy {policy} --objective NAME",
            code="conflicting-options",
        )
    given = [option for option, value in beside.items() if value]
    lone = given if policy is None else [o for o in given if not policy and o != "--out"]
    if lone:
        needed = "--policy" if lone == ["--out"] else "--policy NAME"
        raise HpoError(
            f"{' and '.join(lone)} without {needed}",
            hint="for instance hpo show --policy randaugment --objective digits",
            code="conflicting-options",
        )


def draw(policy: str, objective: str, sets: Sequence[str], out: Path | None, as_json: bool) -> None:
    """The sheet of a policy on an objective's images, saved and told."""
    from hpo.overrides import override
    from hpo.policysheet import of_policy

    given = {".".join(change.path): change.value for change in map(override, sets)}
    sheet, point = of_policy(policy, objective, given)
    told = {"policy": policy, "objective": objective, "knobs": dict(point)}
    _saved(sheet, out or Path(f"{policy}.png"), told, as_json)


def draw_study(result: Result, trial: int | None, out: Path | None, as_json: bool) -> None:
    """The sheet of a study's best trial, or of this one, saved and told."""
    from hpo.cli import _study
    from hpo.policysheet import of_study
    from hpo.problem import load

    record = None if trial is None else _study.trial(result, trial)
    schedule = result.schedule if record is None else result.schedule_of(record)
    number = record.number if record is not None else result.ranked[0].number
    sheet = of_study(load(result.spec), schedule, number)
    told = {"study": result.spec.name, "objective": result.spec.objective, "trial": number}
    _saved(sheet, out or Path(f"{result.spec.name}-policy.png"), told, as_json)


def _saved(sheet: Sheet, path: Path, told: Mapping[str, Any], as_json: bool) -> None:
    from hpo.sheet import save

    save(sheet, path)
    columns = [label for label, _ in sheet.columns]
    if as_json:
        _options.print_json({**told, "file": str(path), "columns": columns, "rows": sheet.rows})
        return
    click.echo(f"{sheet.title}: {len(sheet.rows)} images, {', '.join(columns)}")
    click.echo(f"saved {path}")
