"""hpo run"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from hpo.cli._spec import Given
    from hpo.result import Result
    from hpo.spec import StudySpec

EXAMPLES = """\b
Examples:
  hpo run                                        the packaged quickstart
  hpo run study.yaml                             a study file (hpo init writes one)
  hpo run --objective fashion_mnist --trials 12 --workers 2
  hpo run study.yaml --set budget.trials=40 --set space.dropout.high=0.5
  hpo run --resume --name quickstart --trials 40
"""


@click.command("run", epilog=EXAMPLES)
@click.argument("spec", required=False, metavar="[SPEC]", type=click.Path())
@click.option("--name", help="Name of the study and its folder.")
@click.option("--objective", help="Built-in NAME, module:attr or file.py:attr.")
@click.option("--space", help="A preset of knobs (hpo list spaces).")
@click.option("--sampler", help="How points are chosen (hpo list samplers).")
@click.option("--prune", help="Ends bad trials early (hpo list pruners).")
@click.option("--engine", help="Where trials run (hpo list engines).")
@click.option("--workers", type=int, help="Trials at once; 0 runs them in this process.")
@click.option("--gpus-per-trial", type=float, help="GPUs each trial gets; fractions share one.")
@click.option("--trials", type=int, help="How many trials in all.")
@click.option("--steps", type=int, help="Training steps of a trial.")
@click.option("--time", help="No new trial after this long: 90s, 20m, 2h.")
@click.option("--plateau", type=int, help="Stop after so many trials without a better one.")
@click.option("--seed", type=int, help="Seed of the study.")
@click.option("--seeds", type=int, help="Repeats averaged inside one trial.")
@click.option("--storage", help="Database URL of the ledger instead of a file.")
@click.option("--tracking-uri", help="MLflow server instead of the local database.")
@click.option("--no-mlflow", is_flag=True, help="Log nothing to MLflow.")
@click.option("--start-from", metavar="STUDY|FILE", help="Start at the best of a study or file.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Sets a key of the spec.")
@click.option("--resume", is_flag=True, help="Continue the study of this name.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--on-finish", metavar="CMD", help="Command to run at the end; sees HPO_STUDY, …")
@click.option("-q", "--quiet", is_flag=True, help="Only the result.")
@_options.common
def command(
    spec: str | None,
    sets: tuple[str, ...],
    mlruns: Path,
    as_json: bool,
    resume: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Runs a study: trains trials, searches their regularization, keeps everything.

    SPEC is a study file, - for stdin; without it the packaged quickstart runs. Ctrl-C leaves a
    study that --resume continues.
    """
    from hpo.cli._spec import given
    from hpo.errors import HpoError

    if resume and spec is None and options["objective"] is None:
        described, source = _stored(mlruns, sets, options)
    else:
        source = given(spec, sets, options)
        described = source.spec()
    if options["no_mlflow"]:
        described = described.model_copy(update={"mlflow": False})
    try:
        if dry_run:
            _plan(described, mlruns, resume, as_json)
            return
        start = _start_point(options["start_from"], mlruns)
        _run(described, mlruns, resume, start, as_json, quiet, options["on_finish"])
    except HpoError as error:
        raise source.placed(error) from None


def _stored(
    mlruns: Path, sets: tuple[str, ...], options: dict[str, Any]
) -> tuple[StudySpec, Given]:
    """The stored spec of the study to resume, with the options laid over it."""
    from hpo import folder as folders
    from hpo.cli._spec import Given, given
    from hpo.yamlfile import Document

    found = folders.find(options["name"], mlruns)
    over = given(None, sets, {**options, "objective": "", "name": None}).overrides
    over = [change for change in over if change.path != ("objective",)]
    stored = folders.read_spec(found)
    minimal = {"name": found.name, "objective": stored.objective}
    source = Given(Document("", "", minimal), over)
    return source.spec(), source


def _run(
    described: StudySpec,
    mlruns: Path,
    resume: bool,
    start: dict[str, Any] | None,
    as_json: bool,
    quiet: bool,
    on_finish: str | None,
) -> None:
    from hpo import console as consoles
    from hpo.errors import HpoError, exit_code
    from hpo.launch import launch
    from hpo.preparation import Launch

    style = consoles.style(as_json=as_json, quiet=quiet)
    console = consoles.Console(style, described.metric, described.direction)
    how = Launch(mlruns, resume, (console,), console.line, start=start, header=console.header)
    code, result = 0, None
    try:
        result = launch(described, how)
    except HpoError as error:
        code = exit_code(error)
        raise
    finally:
        console.close()
        if on_finish:
            _finish(on_finish, described.name, code, mlruns)
    _report(result, as_json)


def _report(result: Result, as_json: bool) -> None:
    from hpo.console import closing

    if as_json:
        _options.print_json({"event": "study", **result.summary()})
        return
    for line in closing(result):
        click.echo(line)


def _finish(shell_command: str, study: str, code: int, mlruns: Path) -> None:
    """Runs the user's own command; its failure is told and changes nothing."""
    import os

    folder = mlruns.absolute() / "studies" / study
    environment = {
        **os.environ,
        "HPO_STUDY": study,
        "HPO_EXIT": str(code),
        "HPO_FOLDER": str(folder),
        "HPO_SCHEDULE": str(folder / "schedule.json"),
    }
    ended = subprocess.run(shell_command, shell=True, env=environment, check=False)
    if ended.returncode:
        click.echo(f"--on-finish ended with exit code {ended.returncode}", err=True)


def _plan(described: StudySpec, mlruns: Path, resume: bool, as_json: bool) -> None:
    from hpo.console import header
    from hpo.preparation import Launch, prepare, slots_text

    spec, folder, problem = prepare(described, Launch(mlruns, resume))
    if as_json:
        _options.print_json({"plan": spec.plain(), "folder": str(folder.path)})
        return
    for line in header(problem, folder.path, slots_text(spec)):
        click.echo(line)
    click.echo("dry run: nothing was started")


def _start_point(source: str | None, mlruns: Path) -> dict[str, Any] | None:
    if source is None:
        return None
    from hpo.schedulefile import start_point

    return start_point(source, mlruns)
