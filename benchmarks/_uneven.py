"""Objectives that only wait, and write down when and where."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SHORTEST, LONGEST = 2.0, 12.0
REPORTS = 8


def uneven(
    h: Callable[[float], Mapping[str, float]], seed: int, folder: str
) -> Iterator[dict[str, float]]:
    """Leaves begin, end and process of the trial in a file of `folder`."""
    x, begun = h(0.0)["x"], time.time()
    for _ in range(REPORTS):
        time.sleep((SHORTEST + x * (LONGEST - SHORTEST)) / REPORTS)
        yield {"val_loss": x}
    (Path(folder) / f"{begun}").write_text(json.dumps([begun, time.time(), str(os.getpid())]))


def waiting(
    h: Callable[[float], Mapping[str, float]], seed: int, folder: str, seconds: float
) -> Iterator[dict[str, float]]:
    """Reports each second until a trial that begins last has had its time as well: the file of the
    trial that began first says when all are to end."""
    begun, reports = time.time(), 0
    first = Path(folder).parent / f"{Path(folder).name}.first"
    if not first.exists():
        first.write_text(str(begun))
    while time.time() < float(first.read_text() or begun) + seconds:
        time.sleep(1.0)
        reports += 1
        yield {"val_loss": h(0.0)["x"]}
    (Path(folder) / f"{begun}").write_text(json.dumps([begun, time.time(), reports]))
