"""The command line in tests: called in this process, or as the process a user starts."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.cli import main

OBJECTIVES = Path(__file__).with_name("toy_objectives.py")
SPACE = "space:\n  x: {low: 0, high: 1}\n"


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, stdout, stderr, and both as a terminal would mix them."""

    code: int
    out: str
    err: str
    both: str

    @property
    def document(self) -> dict[str, Any]:
        """Stdout as the one JSON document of our format that it must be."""
        return one_document(self.out)


def one_document(text: str) -> dict[str, Any]:
    found = json.loads(text, parse_constant=_refuse)
    assert isinstance(found, dict) and found["format"] == 1
    return found


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


class _Tee(io.BytesIO):
    """Keeps what is written, and hands it on."""

    def __init__(self, also: io.BytesIO) -> None:
        super().__init__()
        self.also = also

    def write(self, data: Any) -> int:
        self.also.write(data)
        return super().write(data)


def hpo(*arguments: str | Path, stdin: bytes = b"") -> Ended:
    """Runs a command in this process, in its working folder; a traceback of Python's fails."""
    both = io.BytesIO()
    out, err = _Tee(both), _Tee(both)
    streams = [io.TextIOWrapper(raw, encoding="utf-8", write_through=True) for raw in (out, err)]
    with (
        _kept_signals(),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        _stdin(stdin),
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    texts = [raw.getvalue().decode() for raw in (out, err, both)]
    return Ended(code, *texts)


@contextlib.contextmanager
def _stdin(data: bytes) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Starts a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hpo.cli", *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def process(*arguments: str | Path, **options: Any) -> Ended:
    """Runs a command as a process of its own, for at most a minute."""
    with start(*arguments, **options) as running:
        out, err = running.communicate(timeout=60)
    return Ended(running.returncode, out or "", err or "", "")


def write(path: Path, text: str) -> Path:
    """A text file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def study_file(folder: Path, text: str = "", objective: str = "value", name: str = "s") -> Path:
    """A study of a toy objective, in this process, without MLflow; `text` may say more."""
    lines = [f"name: {name}", f"objective: {OBJECTIVES}:{objective}"]
    given = {line.partition(":")[0] for line in text.splitlines()}
    for default in (SPACE, "workers: 0\n", "mlflow: false\n", "budget: {trials: 3}\n"):
        if default.partition(":")[0] not in given:
            lines.append(default.rstrip())
    return write(folder / "study.yaml", "\n".join(lines) + "\n" + text)


_CHANGING = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE"),
    (r"\b\d+h\d\dm\b|\b\d+m\d\ds\b|\b\d+(\.\d+)?s\b", "TIME"),
    (r" +TIME\b", "  TIME"),
    (r"\b\d+\.\d GiB", "N GiB"),
    (r"\bpid \d+ on \S+?(?=\))", "PID"),
    (r"(?<= on )\S+/\d cpu\b", "WORKER"),
    (r"\bhpo \d+\.\d+\.\d+\b", "hpo VERSION"),
    (r"line \d+, in ", "line N, in "),
)


def normalised(text: str, folder: Path) -> str:
    """`text` without what differs from run to run: times, dates, places, versions."""
    text = text.replace(str(folder), "FOLDER").replace(str(OBJECTIVES.parent), "TESTS")
    text = text.replace(os.path.realpath(folder), "FOLDER")
    for pattern, word in _CHANGING:
        text = re.sub(pattern, word, text)
    return text
