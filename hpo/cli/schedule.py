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
  hpo schedule                                what the latest study discovered
  hpo schedule quickstart --out schedule.py   a function of progress, no dependencies
  hpo schedule quickstart --knots 3 --out short.json
  hpo schedule quickstart --plot schedule.png
"""
SHOWN_KNOTS, SHOWN_TOLERANCE = 8, 0.02


@click.command("schedule", epilog=EXAMPLES, context_settings=_options.HELP)
@_options.study_argument
@click.option(
    "--trial", type=click.IntRange(0), metavar="N", help="Of this trial instead of the best."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save as FILE.json, FILE.csv or FILE.py.",
)
@click.option(
    "--knots", type=click.IntRange(2, 1000), metavar="N", help="Describe it by at most N knots."
)
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
    from hpo.cli import _expected, _study
    from hpo.result import open_study
    from hpo.schedulefile import switched_off

    result = open_study(study, mlruns)
    record = None if trial is None else _study.trial(result, trial)
    schedule = result.schedule if record is None else result.schedule_of(record)
    thinned, error = schedule.thin(knots or SHOWN_KNOTS, 0.0 if knots else SHOWN_TOLERANCE)
    saved, deviation = (thinned, error) if knots else (schedule, 0.0)
    written = _write(saved, out, plot)
    if as_json:
        about = {
            "study": result.spec.name,
            "deviation": deviation,
            "saved": written,
            "off": switched_off(schedule),
        }
        _options.print_json({**about, "schedule": saved.to_json()})
        return
    for line in [*_lines(result, schedule, thinned, error), *_expected.lines(thinned)]:
        click.echo(line)
    for name in written or ["Save with --out schedule.json|.csv|.py"]:
        click.echo(f"saved {name}" if written else name)


def _write(schedule: Schedule, out: Path | None, plot: Path | None) -> list[str]:
    from hpo import schedulefile

    if out is not None:
        schedulefile.write(schedule, out)
    if plot is not None:
        from hpo.plot import draw

        draw(schedule, plot)
    return [str(path) for path in (out, plot) if path is not None]


def _lines(result: Result, schedule: Schedule, thinned: Schedule, error: float) -> list[str]:
    from hpo.schedulefile import switched_off
    from hpo.wording import condition, plural, table, terminal_width, without

    nearly = not thinned.moving(0.0)  # few knots need not show a small change
    rows = _rows(schedule if nearly else thinned, nearly)
    names = list(schedule.space)
    header, body, gone = without(["progress", *names], rows, names, terminal_width())
    lines = table(header, body)
    if gone:
        lines.append(f"… too narrow for {', '.join(gone)}")
    for name in switched_off(schedule):
        lines.append(f"{name} is off: it counts only {condition(schedule.space[name])}")
    if not schedule.moving(0.0):
        return [*lines, "The values are held constant over training."]
    share = f"{error:.1%} of each knob's range"
    if nearly:
        return [*lines, f"The values move by no more than {share}."]
    steps = result.spec.budget.steps
    what = f"{steps} steps" if steps else "the training"
    how = "exactly" if error < 5e-5 else f"within {share}"
    return [*lines, f"{plural(len(thinned.knots()), 'knot')} describe {what} {how}."]


def _rows(schedule: Schedule, nearly: bool) -> list[list[str]]:
    """A row of values for each knot: of nearly constant ones for both ends; - for what is off."""
    from hpo.schedulefile import switched_off
    from hpo.wording import knob

    if not schedule.moving(0.0):
        places, words = [0.0], ["always"]
    else:
        places = [0.0, 1.0] if nearly else schedule.knots()
        words = [f"{place:.0%}" for place in places]
    off = switched_off(schedule)
    points = [schedule.at(place) for place in places]
    return [
        [word, *("-" if n in off else knob(schedule.space[n], point[n]) for n in schedule.space)]
        for word, point in zip(words, points, strict=True)
    ]
