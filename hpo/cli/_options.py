"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def mlruns(command: F) -> F:
    return click.option(
        "--mlruns",
        type=click.Path(path_type=Path, file_okay=False),
        default="mlruns",
        show_default=True,
        envvar="HPO_MLRUNS",
        help="Folder of studies and the MLflow database.",
    )(command)


def as_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(
        command
    )


def traceback(command: F) -> F:
    return click.option(
        "--traceback", is_flag=True, expose_value=False, help="Show tracebacks of errors too."
    )(command)


def common(command: F) -> F:
    """--mlruns, --json and --traceback."""
    return mlruns(as_json(traceback(command)))


def study_argument(command: F) -> F:
    """STUDY: a name, a folder, or nothing for the latest."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        from click.shell_completion import CompletionItem

        from hpo.folder import studies

        folder = ctx.params.get("mlruns") or "mlruns"
        names = [found.name for found in studies(folder)]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return click.argument("study", required=False, metavar="[STUDY]", shell_complete=complete)(
        command
    )


def print_json(data: dict[str, Any]) -> None:
    """One JSON document on stdout, with the version of its format."""
    click.echo(json.dumps({"format": 1, **data}, default=str))
