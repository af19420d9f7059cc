"""hpo ui"""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli import _options

EXAMPLES = """\b
Examples:
  hpo ui                     the page, with links to compare the best trials of each study
  hpo ui --study quickstart  links for one study
  hpo ui --print-only        the links for a page that is already running
"""


@click.command("ui", epilog=EXAMPLES)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--study", help="Links for this study.")
@click.option("--print-only", is_flag=True, help="Print links, start nothing.")
@_options.common
def command(port: int, study: str | None, print_only: bool, mlruns: Path, as_json: bool) -> None:
    """Starts the MLflow page on the right database and prints links that compare runs."""
    from hpo import mlflowui

    mlflowui.serve(mlruns, port=port, study=study, print_only=print_only, as_json=as_json)
