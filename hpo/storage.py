"""The ledger's database, named by a URL: checked, made absolute, opened."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.masking import without_password

if TYPE_CHECKING:
    from sqlalchemy import URL

    from hpo.patience import Patient, Waiting


def resolved(url: str) -> str:
    """`url` made independent of the working directory: relative SQLite paths become absolute.

    Raises HpoError if it is no database URL or the database's driver cannot be imported.
    """
    from sqlalchemy import make_url

    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except Exception as error:  # a plugin or a driver may raise anything while it is imported
        raise _refused(url, error) from None
    path = _file(parsed)
    if path is None:
        return url
    return parsed.set(database=str(path)).render_as_string(hide_password=False)


def remote(url: str, *, must_exist: bool = False, waiting: Waiting | None = None) -> Patient:
    """Optuna's storage at a database URL, to be read, or with `waiting` to be driven.

    Raises HpoError naming what is wrong with it; with `must_exist`, also where SQLite would create
    the file.
    """
    import optuna
    from sqlalchemy import make_url

    from hpo.patience import Patient, Waiting

    try:
        parsed = make_url(url)
        file = _file(parsed) if must_exist else None
        if file is None or file.exists():
            options = _options(parsed, writes=waiting is not None)
            database = optuna.storages.RDBStorage(url, options)
            cached = optuna.storages.get_storage(database)
            return Patient(cached, database.engine, url, waiting or Waiting())
    except Exception as error:
        raise _refused(url, error) from None
    raise HpoError(
        f"storage {without_password(url)}: no such file",
        hint="it held the trials of this study: put it back",
        code="no-storage",
        path=("storage",),
    )


def _options(url: URL, *, writes: bool) -> dict[str, Any]:
    """What is told to SQLAlchemy beyond the URL, which goes before it."""
    if url.get_backend_name() == "sqlite":
        return {"pool_events": [(_write_ahead, "connect")]} if writes and _file(url) else {}
    if url.get_dialect().driver in {"psycopg", "psycopg2"}:
        # A server that vanishes without a word is noticed within half a minute, not two hours.
        limits = {
            "connect_timeout": 10,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
        }
        return {"connect_args": {k: v for k, v in limits.items() if k not in url.query}}
    return {}


def _write_ahead(connection: Any, _: object) -> None:
    """One cheap append for each write, as to our journal. A power cut may take the last trials,
    which are then asked for again, the same; the file stays whole."""
    cursor = connection.cursor()
    with suppress(sqlite3.OperationalError):  # another program is reading: the next time then
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _file(url: URL) -> Path | None:
    """The file of a SQLite database; None for one in memory, and for every other kind."""
    path = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or path.startswith((":memory:", "file:")):
        return None
    return Path(path).absolute()


def _refused(url: str, error: Exception) -> HpoError:
    from sqlalchemy.exc import OperationalError

    said = without_password((str(error).splitlines() or [type(error).__name__])[0])
    hint = "a URL such as postgresql://user@host/database or sqlite:////path/file.db"
    if isinstance(error, OperationalError):
        hint = f"is its server running, are user and password right? It is {hint}"
    if isinstance(error, ImportError):
        hint = (
            "install the database's driver: for PostgreSQL pip install 'hpo-schedules[postgresql]'"
        )
    return HpoError(
        f"storage {without_password(url)}: {said}", hint=hint, code="storage", path=("storage",)
    )
