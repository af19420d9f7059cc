"""The commands as a user meets them: transcripts, exit codes, JSON, terminals, signals.

The transcripts in golden/ are compared word by word, without times, dates and places. After a
wanted change:  HPO_UPDATE_GOLDEN=1 pytest tests/test_cli.py -k transcript  and read the difference.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import (
    OBJECTIVES,
    Ended,
    hpo,
    normalised,
    one_document,
    process,
    start,
    study_file,
    write,
)

from hpo.cli._main import COMMANDS
from hpo.folder import Folder

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder on a machine without GPUs, before a terminal of 100 columns."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("HPO_MLRUNS", raising=False)
    return folder


@pytest.fixture
def inputs(here: Path) -> Path:
    """The working folder with the files of the transcripts in it."""
    shutil.copytree(GOLDEN / "inputs", here, dirs_exist_ok=True)
    return here


# -- transcripts --------------------------------------------------------------------------------


def transcript(text: str, folder: Path) -> str:
    """The commands in `text`, each with what it says now and its exit code if it is not 0."""
    told = []
    for line in text.splitlines():
        if not line.startswith("$ hpo"):
            continue
        ended = hpo(*shlex.split(line)[2:])
        assert "Traceback" not in ended.both or "--trial" in line
        told += [line, normalised(ended.both, folder).rstrip("\n")]
        told += [f"[exit {ended.code}]"] if ended.code else []
    lines = "\n".join(told).splitlines()
    assert not [line for line in lines if line != line.rstrip()], "trailing spaces"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.txt")))
@pytest.mark.usefixtures("quick")
def test_a_transcript_is_as_it_was(name: str, inputs: Path) -> None:
    file = GOLDEN / f"{name}.txt"
    now = transcript(file.read_text(encoding="utf-8"), inputs)
    if os.environ.get("HPO_UPDATE_GOLDEN"):
        file.write_text(now, encoding="utf-8")
    assert now == file.read_text(encoding="utf-8")
