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
    from hpo.cli import _study
    from hpo.result import open_study

    result = open_study(study, mlruns)
    record = None if trial is None else _study.trial(result, trial)
    schedule = result.schedule if record is None else result.schedule_of(record)
    thinned, error = schedule.thin(knots or SHOWN_KNOTS, 0.0 if knots else SHOWN_TOLERANCE)
    saved, deviation = (thinned, error) if knots else (schedule, 0.0)
    written = _write(saved, out, plot)
    if as_json:
        about = {"study": result.spec.name, "deviation": deviation, "saved": written}
        _options.print_json({**about, "schedule": saved.to_json()})
        return
    for line in _lines(result, thinned, error):
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


def _lines(result: Result, schedule: Schedule, error: float) -> list[str]:
    from hpo.wording import knob, plural, table, terminal_width, without

    constant = not schedule.moving(0.0)
    places = [0.0] if constant else schedule.knots()
    names = list(schedule.space)
    rows = [
        [
            "always" if constant else f"{progress:.0%}",
            *(knob(schedule.space[name], point[name]) for name in names),
        ]
        for progress, point in ((place, schedule.at(place)) for place in places)
    ]
    header, body, gone = without(["progress", *names], rows, names, terminal_width())
    lines = table(header, body)
    if gone:
        lines.append(f"… too narrow for {', '.join(gone)}")
    if constant:
        return [*lines, "The values are held constant over training."]
    steps = result.spec.budget.steps
    what = f"{steps} steps" if steps else "the training"
    how = "exactly" if error < 5e-5 else f"within {error:.1%} of each knob's range"
    return [*lines, f"{plural(len(places), 'knot')} describe {what} {how}."]
