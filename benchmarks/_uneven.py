"""An objective that only waits, for a time that its knob says; it writes down when and where."""

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
