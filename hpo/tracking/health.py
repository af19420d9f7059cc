"""Looks at an MLflow database without MLflow: can it be read, and does its schema fit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Health:
    """What a database holds; `trouble` is "" if the installed MLflow can work with it."""

    runs: int = 0
    experiments: int = 0
    schema: str = ""
    trouble: str = ""
    hint: str = ""
    elsewhere: tuple[str, ...] = ()  # experiments whose artifacts are in another folder


def examine(file: Path) -> Health:
    """The health of the database in `file`. Nothing is written, waiting is limited to seconds."""
    try:
        with _reading(file) as database:
            schema = str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])
            runs = int(database.execute("SELECT count(*) FROM runs").fetchone()[0])
            places = database.execute(
                "SELECT name, artifact_location FROM experiments WHERE experiment_id <> 0"
            ).fetchall()
    except (sqlite3.Error, TypeError) as error:
        return Health(
            trouble=f"cannot be read: {error}",
            hint=f"if another program holds it, end that one; otherwise move {file} away: what the"
            " studies delivered is in their folders and hpo ui sends it again",
        )
    trouble, hint = _schema_trouble(file, schema)
    away = tuple(str(name) for name, place in places if _is_elsewhere(str(place), file.parent))
    return Health(runs, len(places), schema, trouble, hint, away)


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=3)) as database:
        yield database


def _schema_trouble(file: Path, schema: str) -> tuple[str, str]:
    known = _revisions()
    if not known:
        return "", ""
    if schema not in known:
        return (
            f"was written by a newer MLflow (schema {schema})",
            "install that version: pip install --upgrade mlflow",
        )
    newest = set(known) - set(known.values())
    if schema not in newest:
        return (
            f"has the schema of an older MLflow ({schema})",
            f"keep a copy, then: mlflow db upgrade sqlite:///{file.absolute()}",
        )
    return "", ""


def _revisions() -> dict[str, str]:
    """The schema versions the installed MLflow knows, each with the one before it."""
    found = find_spec("mlflow")
    places = found.submodule_search_locations if found else None
    known: dict[str, str] = {}
    for place in places or ():
        for file in (Path(place) / "store" / "db_migrations" / "versions").glob("*.py"):
            named = dict(
                re.findall(
                    r"^(revision|down_revision)\s*=\s*[\"'](\w+)[\"']", file.read_text(), re.M
                )
            )
            if "revision" in named:
                known[named["revision"]] = named.get("down_revision", "")
    return known


def _is_elsewhere(place: str, mlruns: Path) -> bool:
    """Whether artifacts go to a local folder outside `mlruns`: the folder has been moved."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return False
    return not Path(unquote(parts.path)).is_relative_to(mlruns.absolute())
