"""Where studies live on disk: `mlruns/studies/<name>/`, and how a user's word finds one."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo import reference
from hpo.errors import Conflict, HpoError
from hpo.spec import StudySpec, from_mapping
from search_spaces.plugins import closest

DEFAULT_MLRUNS = "mlruns"


@dataclass(frozen=True)
class Folder:
    """The files of one study. Paths are absolute."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def mlruns(self) -> Path:
        return self.path.parent.parent

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def spec(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def findings(self) -> Path:
        return self.path / "findings.json"

    @property
    def schedule(self) -> Path:
        return self.path / "schedule.json"

    @property
    def policy(self) -> Path:
        return self.path / "policy.png"

    @property
    def spool(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def cursor(self) -> Path:
        return self.path / "mlflow-cursor.json"

    @property
    def engine_log(self) -> Path:
        return self.path / "engine.log"

    @property
    def stop_request(self) -> Path:
        return self.path / "stop"

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:05d}"

    def exists(self) -> bool:
        return self.spec.exists()

    def touched(self) -> float:
        """When the study last wrote something, in seconds since the epoch."""
        files = [self.spool, self.journal, self.spec]
        return max((f.stat().st_mtime for f in files if f.exists()), default=0.0)


def studies(mlruns: Path | str = DEFAULT_MLRUNS) -> list[Folder]:
    """The studies under `mlruns`, the one touched last first."""
    root = Path(mlruns).absolute() / "studies"
    found = [Folder(path) for path in root.iterdir()] if root.is_dir() else []
    return sorted((f for f in found if f.exists()), key=Folder.touched, reverse=True)


def find(study: str | None, mlruns: Path | str = DEFAULT_MLRUNS) -> Folder:
    """The study a user means: a name, a folder, or the latest. Raises HpoError."""
    known = studies(mlruns)
    if study is None:
        if known:
            return known[0]
        raise HpoError(
            f"{Path(mlruns)} holds no study yet", hint="start one with hpo run", code="no-study"
        )
    named = Folder(Path(mlruns).absolute() / "studies" / study)
    if named.exists():
        return named
    as_path = Folder(Path(study).absolute())
    if as_path.exists():
        return as_path
    suggest = closest(study, [folder.name for folder in known])
    names = ", ".join(folder.name for folder in known[:8])
    raise HpoError(
        f"no study {study!r}" + (f", did you mean {suggest!r}?" if suggest else ""),
        hint=f"known: {names}   (hpo list)" if names else "start one with hpo run",
        code="unknown-study",
        found=study,
        suggest=suggest,
    )


def create(name: str, mlruns: Path | str = DEFAULT_MLRUNS) -> Folder:
    """The new, empty folder of a study. Raises HpoError where it cannot be written."""
    folder = Folder(Path(mlruns).absolute() / "studies" / name)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        probe = folder.path / f".probe-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise HpoError(
            f"{folder.path}: cannot write there: {error.strerror}",
            hint="give write access or make room, or choose another folder with --mlruns DIR",
            code="unwritable",
        ) from None
    return folder


def refuse_existing(folder: Folder, described: str) -> None:
    """Raises Conflict when the name is taken by an earlier study."""
    if folder.exists():
        raise Conflict(
            f"study {folder.name} exists ({described}). Continue with --resume, or choose --name.",
            code="exists",
            found=folder.name,
        )


def write_spec(folder: Folder, spec: StudySpec) -> None:
    """Stores the resolved spec beside its ledger; for its owner alone if it holds a password."""
    from hpo.yamlfile import dump

    data = {**spec.plain(), "objective": reference.absolute(spec.objective)}
    replace_text(folder.spec, dump(data), mode=0o600 if spec.secret else 0o644)


def read_spec(folder: Folder) -> StudySpec:
    """The resolved spec a study was created with. Raises HpoError if it was damaged."""
    from hpo import yamlfile

    document = yamlfile.load(folder.spec)
    try:
        spec = from_mapping(document.data, default_name=folder.name)
    except HpoError as error:
        raise document.locate(error) from None
    return spec.model_copy(update={"objective": reference.short(spec.objective)})


def replace_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes `text` to `path` so that a reader sees the old text or the new, never a part.

    Makes the folder if it is missing. Raises HpoError where it cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except OSError as error:
        raise HpoError(
            f"{path}: cannot be written: {error.strerror}",
            hint="make room or give write access",
            code="unwritable",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def replace_json(path: Path, data: Any) -> None:
    """Writes `data` as JSON in one piece."""
    replace_text(path, json.dumps(data, indent=1) + "\n")
