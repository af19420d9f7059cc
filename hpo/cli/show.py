"""hpo show"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from hpo.result import Result

EXAMPLES = """\b
Examples:
  hpo show                       the study touched last
  hpo show quickstart --top 20
  hpo show quickstart --trial 3  one trial in full, with its traceback if it failed
  hpo show quickstart --csv > trials.csv
  hpo show quickstart --policy   pictures under the best trial's augmentation
  hpo show --policy randaugment --objective digits --set randaugment.magnitude=15
"""


@click.command("show", epilog=EXAMPLES, context_settings=_options.HELP)
@_options.study_argument
@click.option(
    "--top", type=click.IntRange(1), default=10, metavar="N", help="Rows shown, 10 if not said."
)
@click.option("--watch", is_flag=True, help="Redraw every two seconds until the study ends.")
@click.option("--trial", type=click.IntRange(0), metavar="N", help="One trial in full.")
@click.option("--csv", "as_csv", is_flag=True, help="All trials as CSV on stdout.")
@click.option(
    "--policy",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Draw training images under the study's augmentation, or under the policy or operation of "
    "this name.",
    shell_complete=_options.POLICIES,
)
@click.option(
    "--objective",
    metavar="NAME|REF",
    help="Whose images --policy NAME is drawn on, fashion_mnist if not said.",
    shell_complete=_options.OBJECTIVES,
)
@click.option("--set", "sets", multiple=True, metavar="KNOB=VALUE", help="A knob of --policy NAME.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The PNG file of --policy; by default it is named after what it shows.",
)
@_options.common
def command(
    study: str | None,
    top: int,
    watch: bool,
    trial: int | None,
    as_csv: bool,
    policy: str | None,
    objective: str | None,
    sets: tuple[str, ...],
    out: Path | None,
    mlruns: Path,
    as_json: bool,
) -> None:
    """Shows status, best, leaderboard and failures of a study."""
    from hpo.cli import _policy, _study
    from hpo.result import open_study

    _policy.refuse_misuse(study, policy, {"--objective": objective, "--set": sets, "--out": out})
    if policy:
        _policy.draw(policy, objective or _policy.OBJECTIVE, sets, out, as_json)
        return
    result = open_study(study, mlruns)
    if policy is not None:
        _policy.draw_study(result, trial, out, as_json)
        return
    if watch:
        result = _watched(result, top)
    if trial is not None:
        record = _study.trial(result, trial)
        if as_json:
            _options.print_json(_study.trial_document(result, record))
        else:
            _echo(_study.trial_lines(result, record))
    elif as_csv:
        click.echo(result.trials.to_csv(index=False), nl=False)
    elif as_json:
        _options.print_json(_study.document(result))
    else:
        _echo(_study.lines(result, top))


def _watched(result: Result, top: int) -> Result:
    """Redraws a running study on a terminal until it ends; gives back how it ended."""
    from hpo.cli import _study
    from hpo.lock import holder
    from hpo.result import read

    terminal = sys.stdout.isatty()
    try:
        while holder(result.folder.path) is not None:
            if terminal:
                text = "\n".join(_study.lines(result, top))
                click.clear()
                click.echo(f"{text}\n\nCtrl-C leaves this view; the study goes on")
            time.sleep(2)
            result = read(result.folder)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    if terminal:
        click.clear()
    return result


def _echo(lines: list[Any]) -> None:
    for line in lines:
        click.echo(line)
