"""Where runs are tracked: addresses made absolute, and the old kind of folder told from the new."""

from __future__ import annotations

import os
from pathlib import Path

from hpo.errors import HpoError
from hpo.masking import without_password

VARIABLE = "MLFLOW_TRACKING_URI"
_LOCAL = "sqlite:///"
_SERVERS = ("http://", "https://", "databricks")
_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")


def default_uri(mlruns: Path) -> str:
    """The address of the database inside the folder `mlruns`."""
    return f"{_LOCAL}{mlruns.absolute()}/mlflow.db"


def resolve_uri(uri: str, base: Path | None = None) -> str:
    """`uri` made independent of the working directory: relative SQLite paths become absolute.

    Raises HpoError for an address MLflow cannot keep runs at, or that is gone when we end.
    """
    uri = uri.strip()
    if uri.startswith(_SERVERS):
        return uri.rstrip("/")
    told = f"tracking address {without_password(uri)!r}"
    scheme = uri.partition("://")[0].partition("+")[0]
    if "://" not in uri or scheme not in _DATABASES:
        raise HpoError(
            f"{told}: MLflow 3.13+ no longer keeps runs in plain folders",
            hint="give a server, http://host:5000, or a database, sqlite:///mlruns/mlflow.db",
            code="bad-tracking-uri",
            found=without_password(uri),
        )
    if scheme != "sqlite":
        return uri
    path = uri.partition("://")[2].removeprefix("/")
    if not path or path.startswith(":memory:"):
        raise HpoError(
            f"{told} is a database in memory: it is lost when the study ends",
            hint="name a file, sqlite:///mlruns/mlflow.db",
            code="bad-tracking-uri",
            found=without_password(uri),
        )
    return f"{_LOCAL}{(base or Path.cwd()).absolute() / path}"


def environment_uri() -> str | None:
    """The address MLFLOW_TRACKING_URI names, made absolute; None if it names none.

    Raises HpoError, which names the variable, for an address MLflow cannot keep runs at.
    """
    given = os.environ.get(VARIABLE, "").strip()
    try:
        return resolve_uri(given) if given else None
    except HpoError as error:
        raise HpoError(
            f"{VARIABLE}: {error.message}",
            hint=f"unset it, choose another with --tracking-uri, or use --no-mlflow\n{error.hint}",
            code=error.code,
            found=error.found,
        ) from None


def without_login(uri: str) -> str:
    """A server's address without user and password, as anybody may see it; others unchanged."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if is_server(uri) else uri


def is_server(uri: str) -> bool:
    """Whether `uri` names a tracking server, which decides itself where artifacts go."""
    return uri.startswith(_SERVERS)


def database_file(uri: str) -> Path | None:
    """The file of a SQLite address, None for every other kind."""
    return Path(uri.removeprefix(_LOCAL)) if uri.startswith(_LOCAL) else None


def old_file_store(mlruns: Path) -> str | None:
    """What to tell the user if `mlruns` holds runs in MLflow's withdrawn folder format, or None."""
    if not mlruns.is_dir():
        return None
    folders = sorted(
        entry.name
        for entry in mlruns.iterdir()
        if entry.name.isdecimal() and (entry / "meta.yaml").is_file()
    )
    if not folders:
        return None
    named = ", ".join(f"{name}/" for name in folders[:3]) + (", ..." if len(folders) > 3 else "")
    noun = "folder" if len(folders) == 1 else "folders"
    return (
        f"{mlruns} holds an old MLflow file store ({noun} {named}). "
        "MLflow 3.13+ no longer opens it.\n"
        f"keep it: mlflow migrate-filestore --source {mlruns} --target {_LOCAL}{mlruns}/mlflow.db"
        "      or start fresh: --mlruns runs2"
    )
