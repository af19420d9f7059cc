"""The group of commands, and the one place where an error becomes text and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from hpo._version import __version__
from hpo.errors import HpoError, SpecError, exit_code, render
from hpo.jsonline import json_line
from hpo.masking import masked

COMMANDS = {
    "init": "writes a study file and an objective to edit",
    "check": "validates a study, prints its plan and trains three steps",
    "run": "runs a study; without SPEC the packaged quickstart",
    "stop": "asks a running study to finish its trials and close",
    "list": "lists studies, samplers, objectives, regularizers, spaces, …",
    "show": "shows status, best, leaderboard and failures of a study",
    "schedule": "prints or saves the discovered schedule",
    "ui": "starts the MLflow page on the right database",
    "doctor": "checks versions, devices, folders and databases",
}


class _Lazy(click.Group):
    """A group whose commands are modules of this package, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"hpo.cli.{name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from search_spaces.plugins import closest

            suggest = closest(args[0], COMMANDS)
            hint = f", did you mean {suggest!r}?" if suggest else ""
            ctx.fail(f"unknown command {args[0]!r}{hint}\nknown: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: hpo run       Every command has examples: hpo run --help",
)
@click.version_option(__version__, prog_name="hpo", message="%(prog)s %(version)s")
def cli() -> None:
    """Finds regularization, as a schedule over training."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout = sys.stdout or io.StringIO()  # None where the caller closed it
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a message is never lost for its characters
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _as_interrupt)
    code = _run(arguments, as_json="--json" in arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    sys.exit(code)


def _run(arguments: list[str], as_json: bool) -> int:
    try:
        result = cli.main(arguments, prog_name="hpo", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        return _usage(error, as_json)
    except HpoError as error:
        if "--traceback" in arguments:
            print(masked("".join(traceback.format_exception(error))), file=sys.stderr, end="")
        _tell(error, as_json)
        return exit_code(error)
    except (KeyboardInterrupt, click.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except SystemExit:  # how click ends a command whose reader has closed the pipe
        return _reader_gone()
    except Exception as error:
        return _bug(error, as_json)


def _reader_gone() -> int:
    """The exit code of a command whose output nobody reads any more (hpo list | head)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13


def _usage(error: click.ClickException, as_json: bool) -> int:
    if as_json:
        found = {"code": "usage", "message": error.format_message(), "exit": 2}
        print(json_line({"error": found}))
    else:
        error.show()
    return 2


def _tell(error: HpoError, as_json: bool) -> None:
    if as_json:
        print(json_line({"error": described(error)}))
    else:
        print(masked(render(error)), file=sys.stderr)


def described(error: HpoError) -> dict[str, Any]:
    """An error as plain data, empty fields left out."""
    data: dict[str, Any] = {
        "code": error.code or "error",
        "message": masked(error.message),
        "hint": masked(error.hint),
        "found": masked(error.found),
        "suggest": error.suggest,
        "path": ".".join(map(str, error.path)),
        "exit": exit_code(error),
    }
    if isinstance(error, SpecError) and error.line:
        data |= {"file": error.file, "line": error.line, "column": error.column}
    return {key: value for key, value in data.items() if value not in (None, "")}


def _bug(error: Exception, as_json: bool) -> int:
    text = masked("".join(traceback.format_exception(error)))
    if as_json:
        found = {"code": "bug", "message": masked(str(error)), "traceback": text, "exit": 1}
        print(json_line({"error": found}))
    else:
        print(text, file=sys.stderr)
        print(
            "This is a bug of hpo. Nothing of the study is lost. Please report the text above with"
            " the output of: hpo doctor",
            file=sys.stderr,
        )
    return 1


def _as_interrupt(number: int, _: object) -> None:
    """A polite kill ends a study the way Ctrl-C does; a second one ends the process."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
