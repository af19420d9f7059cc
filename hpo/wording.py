"""Numbers, durations, paths and tables as people read them."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.space import TOGETHER

WIDTH = 100  # of lines that are made of a list of things, where nobody looks at a terminal
NARROWEST = 40


def number(value: Any) -> str:
    """A number with three significant digits; anything else as text."""
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return _several([number(entry) for entry in value])
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-2 or abs(value) >= 1e5:
        return f"{value:.1e}"
    return f"{value:#.3g}" if abs(value) < 100 else f"{value:.1f}"


def column(values: Sequence[float | None]) -> list[str]:
    """Numbers below each other with as many decimals as the one that needs most; - for none."""
    texts = [number(value) for value in values if value is not None]
    places = max((len(text.partition(".")[2]) for text in texts), default=0)
    alike = all(text.replace(".", "", 1).lstrip("-").isdigit() for text in texts)
    return [
        "-" if value is None else f"{value:.{places}f}" if alike else number(value)
        for value in values
    ]


def knob(domain: Domain | None, value: Any) -> str:
    """A knob's value with as many digits as its range deserves, the same for all its values."""
    if isinstance(value, tuple | list) and len(value) > TOGETHER:
        return f"{knob(domain, min(value))} to {knob(domain, max(value))}"
    if isinstance(value, tuple | list):
        return _several([knob(domain, entry) for entry in value])
    if not isinstance(domain, Float) or not isinstance(value, int | float):
        return number(value)
    if domain.scale != "linear":
        return "0" if value == 0 else f"{value:.1e}"
    width = domain.high - domain.low or abs(domain.high) or 1.0
    decimals = 3 - math.ceil(math.log10(width))
    return f"{value:.{decimals}f}" if 0 <= decimals <= 6 else f"{value:.2e}"


def describe(domain: Domain) -> str:
    """A knob's range in a few characters: `1e-06..0.1 log`, `relu|gelu`."""
    if isinstance(domain, Choice):
        return "|".join(number(option) for option in domain.options)
    scale = "" if domain.scale == "linear" else f" {domain.scale}"
    whole = " int" if isinstance(domain, Int) else ""
    size = f" x{domain.size}" if domain.size is not None else ""
    form = domain.schedule
    schedule = f" {form.kind} schedule" if form is not None and form.kind != "constant" else ""
    return f"{domain.low:g}..{domain.high:g}{whole}{scale}{size}{schedule}"


def brief(domain: Domain) -> str:
    """The same, but of many options only how many they are."""
    told = describe(domain)
    if isinstance(domain, Choice) and len(told) > NARROWEST:
        return f"{len(domain.options)} options"
    return told


def condition(domain: Domain) -> str:
    """When a knob counts: `while optimizer is sgd or adam`; nothing for one that always does."""
    parents = [f"{name} is {' or '.join(map(number, v))}" for name, v in domain.when.items()]
    return f"while {', '.join(parents)}" if parents else ""


def duration(seconds: float) -> str:
    """Seconds as 0.3s, 24s, 3m10s or 2h05m."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 119.5:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def plural(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown(path: Path) -> str:
    """A path as short as it can be written from the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def mlruns_option(mlruns: Path) -> str:
    """` --mlruns DIR` where a command needs it to find this folder from here, else nothing."""
    default = Path(os.environ.get("HPO_MLRUNS") or "mlruns").absolute()
    return "" if mlruns.absolute() == default else f" --mlruns {shlex.quote(shown(mlruns))}"


def terminal_width() -> int | None:
    """How many characters fit a line of stdout; None where it is no terminal."""
    if not sys.stdout.isatty():
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns)


def wrapped(label: str, items: Sequence[str], width: int = WIDTH, indent: int = 12) -> list[str]:
    """`label` and the items behind it, three spaces apart, on as few lines as they need."""
    lines, line = [], f"{label:{indent}}"
    for item in items:
        if len(line) > indent and len(line) + 3 + len(item) > width:
            lines.append(line)
            line = " " * indent
        line += ("   " if len(line) > indent else "") + item
    return [line.rstrip() for line in (*lines, line)]


def grid(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Columns two spaces apart, aligned to the left but for those numbered in `right`."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[str] = (),
    width: int | None = None,
) -> list[str]:
    """Columns two spaces apart, aligned to the right but for those named in `left`.

    A last column to the left is broken into lines where it would not fit into `width`.
    """
    right = [index for index, name in enumerate(header) if name not in left]
    lines = grid([header, *rows], right)
    indent = sum(max(len(row[i]) for row in (header, *rows)) + 2 for i in range(len(header) - 1))
    if width is None or header[-1] not in left or width - indent < NARROWEST // 2:
        return lines
    return [part for line in lines for part in _broken(line, width, indent)]


def _broken(line: str, width: int, indent: int) -> list[str]:
    if len(line) <= width:
        return [line]
    import textwrap

    rest = textwrap.wrap(line[indent:], width - indent)
    return [line[:indent] + rest[0], *(" " * indent + part for part in rest[1:])]


def without(
    header: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str], width: int | None
) -> tuple[list[str], list[list[str]], list[str]]:
    """The table with as many of its `optional` columns as fit the width, and the names left out."""
    kept, gone = list(header), list[str]()
    widths = {
        name: max(len(row[i]) for row in (header, *rows)) + 2 for i, name in enumerate(header)
    }
    for name in reversed(optional):
        if width is None or sum(widths[one] for one in kept) - 2 <= width:
            break
        kept.remove(name)
        gone.insert(0, name)
    places = [list(header).index(name) for name in kept]
    return kept, [[row[i] for i in places] for row in rows], gone


def _several(entries: Sequence[str]) -> str:
    if len(entries) > 4:
        return f"({', '.join(entries[:3])}, … {entries[-1]})"
    return f"({', '.join(entries)})"
