"""hpo stop"""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli import _options

EXAMPLES = """\b
Examples:
  hpo stop                    the study that runs: finish running trials, then close
  hpo stop quickstart --now   leave running trials where they are; --resume takes them up
"""


@click.command("stop", epilog=EXAMPLES, context_settings=_options.HELP)
@_options.study_argument
@click.option("--now", is_flag=True, help="Do not wait for running trials; they stay resumable.")
@_options.common
def command(study: str | None, now: bool, mlruns: Path, as_json: bool) -> None:
    """Asks a running study to finish its trials and close."""
    from hpo.folder import find, replace_text, studies
    from hpo.lock import holder
    from hpo.wording import mlruns_option

    running = [] if study else [one for one in studies(mlruns) if holder(one.path) is not None]
    folder = running[0] if running else find(study, mlruns)
    driver = holder(folder.path)
    if driver is not None:
        replace_text(folder.stop_request, "now" if now else "finish")
    if as_json:
        _options.print_json({"study": folder.name, "running": driver is not None})
        return
    if driver is None:
        click.echo(f"study {folder.name} is not running; nothing to stop")
        return
    how = "at once" if now else "when its running trials end"
    click.echo(f"asked study {folder.name} (pid {driver.get('pid', '?')}) to stop {how}")
    option = mlruns_option(folder.mlruns)
    click.echo(f"continue later:  hpo run --resume --name {folder.name}{option}")
