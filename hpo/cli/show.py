"""hpo show"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from hpo.result import Result

EXAMPLES = """\b
Examples:
  hpo show                      the study touched last
  hpo show quickstart --top 20
  hpo show quickstart --trial 3 one trial in full, with its traceback if it failed
  hpo show quickstart --csv > trials.csv
"""


@click.command("show", epilog=EXAMPLES)
@_options.study_argument
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Rows shown.")
@click.option("--watch", is_flag=True, help="Redraw every two seconds until the study ends.")
@click.option("--trial", type=click.IntRange(0), help="One trial in full.")
@click.option("--csv", "as_csv", is_flag=True, help="All trials as CSV on stdout.")
@_options.common
def command(
    study: str | None,
    top: int,
    watch: bool,
    trial: int | None,
    as_csv: bool,
    mlruns: Path,
    as_json: bool,
) -> None:
    """Shows status, best, leaderboard and failures of a study."""
    from hpo.lock import holder
    from hpo.result import open_study, read

    result = open_study(study, mlruns)
    if as_csv:
        click.echo(result.trials.to_csv(index=False), nl=False)
    elif trial is not None:
        _one(result, trial, as_json)
    elif as_json:
        running = holder(result.folder.path) is not None
        _options.print_json({**result.summary(), "running": running, "leaderboard": _rows(result)})
    elif watch:
        while holder(result.folder.path) is not None:
            click.clear()
            _table(result, top)
            time.sleep(2)
            result = read(result.folder)
        _table(result, top)
    else:
        _table(result, top)


def _rows(result: Result) -> list[dict[str, object]]:
    return [
        {
            "rank": rank,
            "trial": record.number,
            "value": record.value,
            "holdout": record.holdout,
            "step": record.step,
            "start": dict(record.coordinates),
            "seconds": record.seconds,
        }
        for rank, record in enumerate(result.ranked, start=1)
    ]


def _table(result: Result, top: int) -> None:
    from hpo.console import duration, number, shown
    from hpo.lock import holder

    spec, states = result.spec, result.summary()["trials"]
    ended = sum(states.get(state, 0) for state in ("complete", "pruned", "failed"))
    status = "running" if holder(result.folder.path) is not None else "not running"
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    click.echo(
        f"study {spec.name}   objective {spec.objective}   sampler {spec.sampler}   {status}"
    )
    click.echo(f"trials      {ended} of {spec.budget.trials} ended ({counts or 'none yet'})")
    click.echo(f"folder      {shown(result.folder.path)}")
    if result.ranked:
        click.echo("")
        knobs = list(result.space.coordinates())
        header = ["rank", "trial", spec.metric, "hold-out", "best step", *knobs, "time"]
        rows = [
            [
                str(rank),
                str(r.number),
                number(r.value),
                "-" if r.holdout is None else number(r.holdout),
                str(r.step),
                *(number(r.coordinates[n]) if n in r.coordinates else "-" for n in knobs),
                duration(r.seconds),
            ]
            for rank, r in enumerate(result.ranked[:top], start=1)
        ]
        click.echo(table(header, rows))
        if len(result.ranked) > top:
            click.echo(f"… {len(result.ranked) - top} more: --top {len(result.ranked)}, or --csv")
    _failures(result)


def _failures(result: Result) -> None:
    groups: dict[str, list[int]] = {}
    for record in result.records:
        if record.state == "failed":
            groups.setdefault(record.message or record.reason, []).append(record.number)
    if groups:
        click.echo("\nfailures")
    for message, numbers in sorted(groups.items(), key=lambda group: -len(group[1])):
        shown = ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")
        click.echo(f"  {len(numbers)} x  {message.splitlines()[0]}   (trial {shown})")
    retried = [r for r in result.records if r.attempts]
    for record in retried[:8]:
        reasons = ", ".join(str(attempt["reason"]) for attempt in record.attempts)
        click.echo(f"  trial {record.number} was tried again after: {reasons}")


def _one(result: Result, trial: int, as_json: bool) -> None:
    from hpo.console import duration, number
    from hpo.errors import HpoError

    record = next((r for r in result.records if r.number == trial), None)
    if record is None:
        raise HpoError(
            f"study {result.spec.name} has no trial {trial}",
            hint=f"it has trials 0 to {len(result.records) - 1}",
            code="unknown-trial",
        )
    error = result.folder.trial(trial) / "error.txt"
    text = error.read_text() if error.exists() else ""
    if as_json:
        from dataclasses import asdict

        _options.print_json({"trial": asdict(record), "traceback": text})
        return
    click.echo(f"trial {record.number}   {record.state}   {duration(record.seconds)}")
    if record.value is not None:
        click.echo(f"{result.spec.metric:12}{number(record.value)} at step {record.step}")
    if record.holdout is not None:
        click.echo(f"{'hold-out':12}{number(record.holdout)}")
    for name, value in record.coordinates.items():
        click.echo(f"{name:20}{number(value)}")
    for name, value in record.metrics.items():
        click.echo(f"{name:28}{number(value)}")
    for attempt in record.attempts:
        click.echo(f"tried before: {attempt['reason']}: {attempt['message']}")
    if record.message:
        click.echo(f"\n{record.message}")
    if text:
        click.echo(f"\n{text}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns aligned by spaces, two between them."""
    columns = list(zip(*([header, *rows]), strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [header, *rows]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
