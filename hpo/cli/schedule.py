"""hpo schedule"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from hpo.result import Result
    from search_spaces.schedule import Schedule

EXAMPLES = """\b
Examples:
  hpo schedule                                  what the latest study discovered
  hpo schedule quickstart --out schedule.py     a function of progress, no dependencies
  hpo schedule quickstart --knots 3 --out short.json
  hpo schedule quickstart --plot schedule.png
"""


@click.command("schedule", epilog=EXAMPLES)
@_options.study_argument
@click.option("--trial", type=click.IntRange(0), help="Of this trial instead of the best.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save as FILE.json, FILE.csv or FILE.py.",
)
@click.option("--knots", type=click.IntRange(2, 1000), help="Describe it by at most N knots.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into FILE.png."
)
@_options.common
def command(
    study: str | None,
    trial: int | None,
    out: Path | None,
    knots: int | None,
    plot: Path | None,
    mlruns: Path,
    as_json: bool,
) -> None:
    """Prints or saves the discovered schedule."""
    from hpo import schedulefile
    from hpo.result import open_study

    result = open_study(study, mlruns)
    schedule = result.schedule if trial is None else _of_trial(result, trial)
    thinned, error = schedule.thin(knots or 8, 0.0 if knots else 0.02)
    saved = thinned if knots else schedule
    if out is not None:
        schedulefile.write(saved, out)
    if plot is not None:
        from hpo.plot import draw

        draw(saved, plot)
    if as_json:
        _options.print_json({"schedule": saved.to_json(), "deviation": error if knots else 0.0})
        return
    _print(thinned, error)
    for path in (out, plot):
        if path is not None:
            click.echo(f"saved {path}")
    if out is None:
        click.echo("Save with --out schedule.json|.csv|.py")


def _of_trial(result: Result, trial: int) -> Schedule:
    from hpo.errors import HpoError

    record = next((r for r in result.records if r.number == trial), None)
    if record is None or record.state == "waiting":
        raise HpoError(
            f"study {result.spec.name} has no trial {trial}",
            hint=f"hpo show {result.spec.name} lists them",
            code="unknown-trial",
        )
    return result.schedule_of(record)


def _print(schedule: Schedule, error: float) -> None:
    from hpo.cli.show import table
    from hpo.console import number

    constant = not schedule.moving(0.0)
    places = [0.0] if constant else schedule.knots()
    names = list(schedule.space)
    rows = [
        ["always" if constant else f"{progress:.0%}", *(number(point[name]) for name in names)]
        for progress, point in ((place, schedule.at(place)) for place in places)
    ]
    click.echo(table(["progress", *names], rows))
    if constant:
        click.echo("The values are held constant over training.")
    else:
        click.echo(
            f"{len(places)} knots describe the schedule within {error:.1%} of each knob's range."
        )
