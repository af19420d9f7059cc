"""hpo doctor"""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli import _options

EXAMPLES = """\b
Examples:
  hpo doctor
  hpo doctor --mlruns /data/mlruns --json
  hpo doctor --tracking-uri http://host:5000
"""


@click.command("doctor", epilog=EXAMPLES, context_settings=_options.HELP)
@click.option(
    "--tracking-uri", metavar="URL", help="MLflow server to ask; MLFLOW_TRACKING_URI if not said."
)
@_options.common
def command(tracking_uri: str | None, mlruns: Path, as_json: bool) -> int:
    """Checks versions, devices, write access, databases and data; says what to do."""
    from dataclasses import asdict

    from hpo.doctor import checks

    found = checks(mlruns, tracking_uri)
    if as_json:
        _options.print_json({"checks": [asdict(check) for check in found]})
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            click.echo(f"{check.status:5} {check.name.ljust(width)}  {check.text}")
            if check.hint:
                click.echo(f"{'':6}{'':{width}}  {check.hint}")
    return 5 if any(check.status == "fail" for check in found) else 0
