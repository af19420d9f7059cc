"""Schedule files: read, found behind a study's name, exported as JSON, CSV or plain Python."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from hpo.errors import HpoError
from hpo.folder import Folder, replace_text
from hpo.result import open_study
from search_spaces.schedule import Schedule
from search_spaces.space import holds

LARGEST_FILE = 50_000_000
ROWS = 101
TOLERANCE = 1e-3


def read(path: Path) -> Schedule:
    """The schedule in a JSON file. Raises HpoError naming what is wrong; executes nothing."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise HpoError(f"{path}: larger than {LARGEST_FILE} bytes", code="bad-schedule")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HpoError(f"{path}: {error.strerror}", code="no-file") from None
    except (ValueError, RecursionError):
        raise HpoError(
            f"{path}: is not JSON",
            hint="hpo schedule --out FILE.json writes a schedule that can be read back",
            code="bad-schedule",
        ) from None
    try:
        return Schedule.from_json(data)
    except HpoError as error:
        raise HpoError(f"{path}: {error.message}", hint=error.hint, code=error.code) from None


def find(source: str, mlruns: Path) -> Schedule:
    """The schedule a user means: that of a study's best trial, else a JSON file."""
    path, study = Path(source), Folder(mlruns.absolute() / "studies" / source)
    if not study.exists() and (path.suffix == ".json" or path.is_file()):
        return read(path)
    return open_study(source, mlruns).schedule


def switched_off(schedule: Schedule) -> list[str]:
    """The knobs whose condition does not hold, so that their values stand for nothing.

    Conditions name knobs that do not change during training; one that is off itself meets none.
    """
    live: dict[str, Any] = dict(schedule.at(0.0))
    off: list[str] = []
    while found := [name for name in live if not holds(schedule.space[name], live)]:
        off += found
        live = {name: value for name, value in live.items() if name not in found}
    return [name for name in schedule.space if name in off]


def start_point(source: str, mlruns: Path) -> dict[str, Any]:
    """Where a schedule ends: the values another study starts from."""
    return dict(find(source, mlruns).at(1.0))


def write(schedule: Schedule, path: Path) -> None:
    """Writes the schedule as .json (read back exactly), .csv or a dependency-free .py."""
    writers = {".json": _json, ".csv": to_csv, ".py": to_python}
    if path.suffix not in writers:
        raise HpoError(
            f"--out {path}: cannot tell the format from {path.suffix or 'no ending'!r}",
            hint="end the name in .json, .csv or .py",
            code="bad-format",
        )
    if not path.absolute().parent.is_dir():
        raise HpoError(f"--out {path}: no such folder {path.absolute().parent}", code="no-folder")
    try:
        replace_text(path.absolute(), writers[path.suffix](schedule))
    except OSError as error:
        raise HpoError(f"--out {path}: {error.strerror}", code="unwritable") from None


def to_csv(schedule: Schedule) -> str:
    """progress and one column a knob, in hundredths of the training."""
    stream = io.StringIO()
    rows = [(i / (ROWS - 1), schedule.at(i / (ROWS - 1))) for i in range(ROWS)]
    columns = _columns(rows[0][1])
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["progress", *columns])
    for progress, point in rows:
        flat = _columns(point)
        writer.writerow([f"{progress:.2f}", *(flat[name] for name in columns)])
    return stream.getvalue()


def to_python(schedule: Schedule) -> str:
    """A module with one function of progress that needs nothing but Python.

    Between its points it draws straight lines; there are as many points as it takes to stay within
    `TOLERANCE` of each knob's range. Jumps are met to a millionth of the training.
    """
    from hpo.straight import points

    table = "\n".join(
        f"    ({place!r}, {point!r})," for place, point in points(schedule, TOLERANCE)
    )
    return f'''"""A regularization schedule found by hpo: at(progress) -> {{knob: value}}."""

from bisect import bisect_right

# Straight lines between these points follow the schedule within {TOLERANCE:.1%} of each range.
POINTS = [
{table}
]
PLACES = [place for place, _ in POINTS]


def at(progress):
    """The strength of each knob at a progress between 0 and 1."""
    progress = min(max(progress, 0.0), 1.0)
    index = bisect_right(PLACES, progress)
    start, before = POINTS[index - 1]
    end, after = POINTS[min(index, len(POINTS) - 1)]
    share = (progress - start) / (end - start) if end > start else 0.0
    return {{name: _between(value, after[name], share) for name, value in before.items()}}


def _between(low, high, share):
    if isinstance(low, tuple):
        return tuple(_between(a, b, share) for a, b in zip(low, high))
    if isinstance(low, float) and isinstance(high, float):
        return low + share * (high - low)
    return low
'''


def _json(schedule: Schedule) -> str:
    return json.dumps(schedule.to_json(), indent=1) + "\n"


def _columns(point: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in point.items():
        if isinstance(value, tuple | list):
            flat |= {f"{name}[{i}]": entry for i, entry in enumerate(value)}
        else:
            flat[name] = value
    return flat
