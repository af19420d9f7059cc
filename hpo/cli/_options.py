"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hpo.jsonline import json_line

HELP = {"help_option_names": ["-h", "--help"]}  # of its own: also where no group is above it

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
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of text.")(
        command
    )


def traceback(command: F) -> F:
    return click.option(
        "--traceback", is_flag=True, expose_value=False, help="Show tracebacks of errors too."
    )(command)


def common(command: F) -> F:
    """--mlruns, --json and --traceback."""
    return mlruns(as_json(traceback(command)))


Offer = Callable[[click.Context], Sequence[str]]


def completing(offer: Offer) -> Callable[..., list[CompletionItem]]:
    """Completion by the words that `offer` gives; silent where they cannot be found out."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            words = offer(ctx)
        except Exception:  # an error would be written into the line the user is typing
            return []
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return complete


def _studies(ctx: click.Context) -> list[str]:
    from hpo.folder import studies

    return [found.name for found in studies(ctx.params.get("mlruns") or "mlruns")]


def _plugins(package: str) -> Offer:
    def offer(_: click.Context) -> list[str]:
        from search_spaces import plugins

        return plugins.names(package)

    return offer


def _spaces(_: click.Context) -> list[str]:
    from search_spaces import presets

    return list(presets.names())


def _pruners(_: click.Context) -> list[str]:
    from hpo.pruners import names

    return names()


def _policies(_: click.Context) -> list[str]:
    from hpo.policysheet import augmenting
    from search_spaces import catalogue

    return augmenting(catalogue.names())


# The words that can follow an option.
STUDIES, OBJECTIVES, SAMPLERS, ENGINES, SPACES, PRUNERS, POLICIES = map(
    completing,
    (
        _studies,
        _plugins("objectives"),
        _plugins("hpo.samplers"),
        _plugins("hpo.engines"),
        _spaces,
        _pruners,
        _policies,
    ),
)


def study_argument(command: F) -> F:
    """STUDY: a name, a folder, or nothing for the latest."""
    return click.argument("study", required=False, metavar="[STUDY]", shell_complete=STUDIES)(
        command
    )


def problem(command: F) -> F:
    """--objective, --space and --sampler."""
    options = [
        click.option(
            "--objective",
            metavar="NAME|REF",
            help="Built-in name, module:attr or file.py:attr.",
            shell_complete=OBJECTIVES,
        ),
        click.option(
            "--space",
            metavar="NAME",
            help="A preset of knobs (hpo list spaces).",
            shell_complete=SPACES,
        ),
        click.option(
            "--sampler",
            metavar="NAME",
            help="How points are chosen (hpo list samplers).",
            shell_complete=SAMPLERS,
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON document on stdout, with the version of its format."""
    click.echo(json_line(data))
