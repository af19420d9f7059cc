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


@click.command("run", epilog=EXAMPLES, context_settings=_options.HELP)
@click.argument("spec", required=False, metavar="[SPEC]", type=click.Path())
@click.option(
    "--name",
    metavar="NAME",
    help="Name of the study and its folder.",
    shell_complete=_options.STUDIES,
)
@_options.problem
@click.option(
    "--prune",
    metavar="NAME",
    help="Ends bad trials early (hpo list pruners).",
    shell_complete=_options.PRUNERS,
)
@click.option(
    "--engine",
    metavar="NAME",
    help="Where trials run (hpo list engines).",
    shell_complete=_options.ENGINES,
)
@click.option("--ray-address", metavar="HOST:PORT", help="The cluster that engine ray uses.")
@click.option("--workers", type=int, metavar="N", help="Trials at once; 0: in this process.")
@click.option(
    "--pack", type=int, metavar="N", help="Trials of a small network a worker trains at once."
)
@click.option("--gpus-per-trial", type=float, metavar="F", help="GPUs each gets; 0.5 shares one.")
@click.option("--trials", type=int, metavar="N", help="How many trials in all.")
@click.option("--steps", type=int, metavar="N", help="Training steps of a trial.")
@click.option(
    "--time",
    metavar="TIME",
    help="No new trial after this long (90s, 20m, 2h), counted anew in each run.",
)
@click.option("--plateau", type=int, metavar="N", help="Stop after N trials without a better one.")
@click.option("--seed", type=int, metavar="N", help="Seed of the study.")
@click.option("--seeds", type=int, metavar="N", help="Repeats averaged inside one trial.")
@click.option("--storage", metavar="URL", help="Database of the ledger instead of a file.")
@click.option(
    "--tracking-uri",
    metavar="URL",
    help="MLflow server instead of the local database; MLFLOW_TRACKING_URI if not said.",
)
@click.option("--no-mlflow", is_flag=True, help="Log nothing to MLflow.")
@click.option(
    "--start-from",
    metavar="STUDY|FILE",
    help="Start at the best of a study, or at the end of a schedule file.",
    shell_complete=_options.STUDIES,
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Sets a key of the spec.")
@click.option("--resume", is_flag=True, help="Continue the study of this name, or the latest.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--on-finish",
    metavar="CMD",
    help="Shell command to run at the end, with HPO_STUDY, HPO_EXIT, HPO_FOLDER, HPO_SCHEDULE.",
)
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
        if options["ray_address"] is not None:
            _refuse_address(described)
        start = _start_point(options["start_from"], mlruns)
        if dry_run:
            _plan(described, mlruns, resume, start, as_json)
        else:
            _run(described, mlruns, resume, start, as_json, quiet, options["on_finish"])
    except HpoError as error:
        if error.code == "exists" and source.overrides:
            _refuse_mistakes(described, source, mlruns)
        raise source.placed(error) from None


def _refuse_address(described: StudySpec) -> None:
    """Raises HpoError if the engine has no use for the address of a cluster. In a study file it
    may stand beside any engine: it waits for the one that has."""
    from hpo import engines
    from hpo.errors import HpoError

    if engines.load(described.engine).elsewhere:
        return
    raise HpoError(
        f"engine {described.engine} runs trials on this machine, not on a cluster",
        hint=f"add --engine {engines.able('elsewhere')}, or leave the address out",
        code="wrong-engine",
        path=("ray", "address"),
    )


def _refuse_mistakes(described: StudySpec, source: Given, mlruns: Path) -> None:
    """Raises HpoError for what is wrong with the spec: a misspelt option comes before a taken
    name, which may well be taken because of it."""
    from hpo.errors import HpoError, exit_code
    from hpo.preparation import Launch, resolve

    try:
        resolve(described, Launch(mlruns))
    except HpoError as mistake:
        if exit_code(mistake) == 2:
            raise source.placed(mistake) from None


def _stored(
    mlruns: Path, sets: tuple[str, ...], options: dict[str, Any]
) -> tuple[StudySpec, Given]:
    """The stored spec of the study to resume, with the options laid over it."""
    from hpo import folder as folders
    from hpo.cli._spec import Given, overrides
    from hpo.document import Document

    found = folders.find(options["name"], mlruns)
    stored = {**folders.read_spec(found).plain(), "name": found.name}
    source = Given(Document("", "", stored), overrides(sets, {**options, "name": None}))
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
    how = Launch(mlruns, resume, (console,), console.warn, start=start, header=console.header)
    code = 1
    try:
        result = launch(described, how)
        code = 0
    except HpoError as error:
        code = exit_code(error)
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        console.close()
        if on_finish:
            _finish(on_finish, described.name, code, mlruns)
    _report(result, as_json)


def _report(result: Result, as_json: bool) -> None:
    from hpo.summary import closing

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
    # What it prints goes to stderr: stdout holds the result alone, which may be JSON.
    ended = subprocess.run(shell_command, shell=True, env=environment, stdout=2, check=False)
    if ended.returncode:
        click.echo(f"--on-finish ended with exit code {ended.returncode}", err=True)


def _plan(
    described: StudySpec, mlruns: Path, resume: bool, start: dict[str, Any] | None, as_json: bool
) -> None:
    from hpo.preparation import Launch, prepare, slots_text
    from hpo.summary import header

    spec, folder, problem = prepare(described, Launch(mlruns, resume, start=start))
    if as_json:
        _options.print_json({"plan": spec.shown(), "folder": str(folder.path)})
        return
    for line in header(problem, folder.path, slots_text(spec)):
        click.echo(line)
    click.echo("dry run: nothing was started")


def _start_point(source: str | None, mlruns: Path) -> dict[str, Any] | None:
    if source is None:
        return None
    from hpo.schedulefile import start_point

    return start_point(source, mlruns)
