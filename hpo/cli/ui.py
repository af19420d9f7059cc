"""hpo ui"""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from hpo.folder import Folder

EXAMPLES = """\b
Examples:
  hpo ui                     the page, with links to compare the best trials of each study
  hpo ui --study quickstart  links for one study
  hpo ui --print-only        the links for a page that is already running
"""


@click.command("ui", epilog=EXAMPLES, context_settings=_options.HELP)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5000,
    metavar="N",
    help="Port of the page, 5000 if not said.",
)
@click.option(
    "--study", metavar="NAME", help="Links for this study.", shell_complete=_options.STUDIES
)
@click.option("--print-only", is_flag=True, help="Print links, start nothing.")
@_options.common
def command(port: int, study: str | None, print_only: bool, mlruns: Path, as_json: bool) -> None:
    """Starts the MLflow page on the right database and prints links that compare runs."""
    from hpo import mlflowui
    from hpo.errors import HpoError
    from hpo.folder import find, studies
    from hpo.masking import without_password
    from hpo.tracking import is_server, without_login

    folders = [find(study, mlruns)] if study else studies(mlruns)
    uri = _store(folders[0], mlruns) if folders else _begun_here(mlruns)
    for folder in folders:
        try:
            _deliver(folder)
        except HpoError as error:
            click.echo(f"{folder.name}: {error.message}", err=True)
    local = not is_server(uri)
    base = f"http://{mlflowui.HOST}:{port}" if local else without_login(uri)
    page: AbstractContextManager[str] = nullcontext(base)
    if local and not print_only:
        page = mlflowui.serve(uri, mlruns / "artifacts", port, mlruns.absolute() / "mlflow-ui.log")
        click.echo("starting MLflow (up to a minute the first time) …", err=True)
    with page as base:
        found = [runs for f in folders if (runs := mlflowui.study_runs(f.cursor, uri))]
        if as_json:
            links = {runs.study: mlflowui.charts_link(base, runs) for runs in found}
            compare = {runs.study: mlflowui.trials_link(base, runs) for runs in found}
            store = without_password(uri)
            _options.print_json({"base": base, "store": store, "charts": links, "compare": compare})
        else:
            click.echo(mlflowui.text(base, _described(uri), found))
            _tell_elsewhere(folders, uri, mlruns)
        if local and not print_only:
            click.echo("stop with Ctrl-C", err=as_json)
            _wait()


def _store(folder: Folder, mlruns: Path) -> str:
    """Where a study is tracked."""
    from hpo.folder import read_spec
    from hpo.tracking import default_uri, resolve_uri

    given = read_spec(folder).tracking_uri
    return resolve_uri(given) if given else default_uri(mlruns)


def _begun_here(mlruns: Path) -> str:
    """Where a study that is begun now will be tracked."""
    from hpo.tracking import default_uri, environment_uri

    return environment_uri() or default_uri(mlruns)


def _tell_elsewhere(folders: Sequence[Folder], uri: str, mlruns: Path) -> None:
    """Names the studies that are tracked in another place than `uri`."""
    from hpo.errors import HpoError

    others = []
    for folder in folders:
        with suppress(HpoError):  # a damaged spec has been told of
            if _store(folder, mlruns) != uri:
                others.append(folder.name)
    if others:
        click.echo(f"  tracked elsewhere   {', '.join(others)}:  hpo ui --study {others[0]}")


def _described(uri: str) -> str:
    from hpo import wording
    from hpo.masking import without_password
    from hpo.tracking import database_file

    file = database_file(uri)
    return f"database {wording.shown(file)}" if file else without_password(uri)


def _deliver(folder: Folder) -> None:
    """Sends MLflow what an earlier run could not deliver."""
    from hpo.folder import read_spec
    from hpo.lock import holder
    from hpo.spool import Spool
    from hpo.tracking import Tracker, default_uri
    from hpo.tracking import cursor as cursors

    spec = read_spec(folder)
    if not spec.mlflow or holder(folder.path) is not None:
        return
    spool = Spool(folder.spool)
    uri = spec.tracking_uri or default_uri(folder.mlruns)
    delivered = cursors.read(folder.cursor)
    if delivered is not None and delivered.offset >= spool.size():
        return
    tracker = Tracker(spool, uri, folder.mlruns / "artifacts", folder.cursor)
    tracker.start()
    delivery = tracker.close(timeout=120.0)
    if delivery.pending:
        click.echo(f"{folder.name}: {delivery.pending} events wait: {delivery.error}", err=True)


def _wait() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
