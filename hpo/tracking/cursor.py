"""How far a study's events have been delivered, and the MLflow runs they went to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpo.tracking.address import without_login

FORMAT = 1


@dataclass
class OpenRun:
    """A child run that has not ended: its id, the last step delivered, whether it was put aside
    when the study was stopped."""

    id: str
    step: int = -1
    parked: bool = False


@dataclass
class Cursor:
    """Byte `offset` of the first event not delivered, and what delivering the next ones needs.

    Only runs that are open are held, so the size does not grow with the study; runs that ended
    are found again by their tags.
    """

    store: str = ""
    offset: int = 0
    key: str = ""
    study: str = ""
    experiment: str = ""
    experiment_id: str = ""
    parent: str = ""
    metric: str = ""
    knobs: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    runs: dict[str, OpenRun] = field(default_factory=dict)
    ranks: dict[str, tuple[int, str]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes the cursor to `path`, whole or not at all."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}))
        temporary.replace(path)


def load(path: Path, uri: str) -> Cursor:
    """The cursor kept at `path`; a fresh one if there is none for the store at `uri`.

    A fresh one is never wrong, only slower: every event is then sent again, and MLflow has it once.
    """
    cursor = read(path)
    return cursor if cursor is not None and cursor.store == fingerprint(uri) else fresh(uri)


def fresh(uri: str) -> Cursor:
    """The cursor of a study of which the store at `uri` has nothing."""
    return Cursor(store=fingerprint(uri))


def read(path: Path) -> Cursor | None:
    """The cursor kept at `path`, whichever store it is for, or None."""
    try:
        data = json.loads(path.read_text())
        return _from_json(data) if data["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fingerprint(uri: str) -> str:
    """A short name for the store at `uri`, the same after a change of its password."""
    return hashlib.sha256(without_login(uri).encode()).hexdigest()[:16]


def _from_json(data: Mapping[str, Any]) -> Cursor:
    fields = {key: value for key, value in data.items() if key != "format"}
    runs = {name: OpenRun(**run) for name, run in fields.pop("runs").items()}
    ranks = {trial: (int(rank), str(run)) for trial, (rank, run) in fields.pop("ranks").items()}
    return Cursor(**fields, runs=runs, ranks=ranks)
