"""The ledger's database, named by a URL: checked, made absolute, opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.masking import without_password

if TYPE_CHECKING:
    from sqlalchemy import URL


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


def remote(url: str, *, must_exist: bool = False) -> Any:
    """Optuna's storage at a database URL. Raises HpoError naming what is wrong with it.

    With `must_exist`, also where SQLite would create the file.
    """
    import optuna
    from sqlalchemy import make_url

    try:
        file = _file(make_url(url)) if must_exist else None
        if file is None or file.exists():
            return optuna.storages.RDBStorage(url)
    except Exception as error:
        raise _refused(url, error) from None
    raise HpoError(
        f"storage {without_password(url)}: no such file",
        hint="it held the trials of this study: put it back",
        code="no-storage",
        path=("storage",),
    )


def _file(url: URL) -> Path | None:
    """The file of a SQLite database; None for one in memory, and for every other kind."""
    path = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or path.startswith((":memory:", "file:")):
        return None
    return Path(path).absolute()


def _refused(url: str, error: Exception) -> HpoError:
    said = without_password((str(error).splitlines() or [type(error).__name__])[0])
    hint = "a URL such as postgresql://user@host/database or sqlite:////path/file.db"
    if isinstance(error, ImportError):
        hint = "install the database's driver, for example psycopg2-binary or pymysql"
    return HpoError(
        f"storage {without_password(url)}: {said}", hint=hint, code="storage", path=("storage",)
    )
