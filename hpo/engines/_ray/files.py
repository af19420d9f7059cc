"""The folder of a trial on a node that does not have the study's folder: its files travel."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.recovery import has_checkpoint

FILES = "files"


class Mirror:
    """Where a worker keeps the files of a trial: the trial's own folder if the worker has the same
    disk as the driver, else a folder of its own whose files go to the driver as they change."""

    def __init__(self, folder: str | None, config: Mapping[str, Any]) -> None:
        self._temporary: Path | None = None
        self._sent: dict[str, int] = {}
        self.folder = folder
        if folder is None or _same_disk(config["worker"]):
            return
        self._temporary = Path(tempfile.mkdtemp(prefix="hpo-"))
        self.folder = str(self._temporary)
        receive(self._temporary, config.get(FILES) or {})
        self._sent = self._found()

    def changed(self) -> dict[str, Any]:
        """The files that are new or newer than when they were last sent, as a part of a result."""
        if self._temporary is None:
            return {}
        found = self._found()
        fresh = [name for name, written in found.items() if self._sent.get(name) != written]
        self._sent = found
        return {FILES: {name: (self._temporary / name).read_bytes() for name in fresh}}

    def remove(self) -> None:
        """Removes the folder if it was a temporary one."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _found(self) -> dict[str, int]:
        assert self._temporary is not None
        return {
            path.relative_to(self._temporary).as_posix(): path.stat().st_mtime_ns
            for path in self._temporary.rglob("*")
            if path.is_file() and not path.name.endswith(".unfinished")
        }


def of_checkpoint(checkpoint: str | None) -> dict[str, bytes]:
    """The files that a worker without the study's folder needs to go on from a checkpoint."""
    if checkpoint is None or not has_checkpoint(checkpoint):
        return {}
    folder = Path(checkpoint)
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def arrived(result: Mapping[str, Any]) -> dict[str, bytes]:
    """The files in a result, which Ray has flattened."""
    prefix = f"{FILES}/"
    return {k.removeprefix(prefix): v for k, v in result.items() if k.startswith(prefix)}


def receive(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that came from another machine, each whole or not at all.

    Names that lead out of the folder are left out: a worker may write what is its own only.
    """
    for name, content in files.items():
        path = folder / name
        if folder.resolve() not in path.resolve().parents:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_bytes(content)
        unfinished.replace(path)


def _same_disk(told: Mapping[str, Any]) -> bool:
    """Whether this node sees the driver's mark in the study's folder."""
    try:
        mark: str = told["mark"]
        return (Path(told["folder"]) / "driver.json").read_text() == mark
    except OSError:
        return False
