"""hpo list"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hpo.cli import _options

KINDS = (
    "studies",
    "samplers",
    "pruners",
    "objectives",
    "regularizers",
    "spaces",
    "engines",
)
EXAMPLES = """\b
Examples:
  hpo list                      studies, the latest first
  hpo list regularizers --long  with the range of each knob
  hpo list samplers
"""


@click.command("list", epilog=EXAMPLES)
@click.argument("what", type=click.Choice(KINDS), default="studies")
@click.option("--long", "long", is_flag=True, help="Tell more of each.")
@_options.common
def command(what: str, long: bool, mlruns: Path, as_json: bool) -> None:
    """Lists studies (default), samplers, pruners, objectives, regularizers, spaces or engines."""
    listing: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "studies": lambda: _studies(mlruns),
        "samplers": lambda: _samplers(long or as_json),
        "pruners": _pruners,
        "objectives": lambda: _objectives(long or as_json),
        "regularizers": lambda: _regularizers(long or as_json),
        "spaces": _spaces,
        "engines": _engines,
    }
    rows = listing[what]()
    if as_json:
        _options.print_json({what: rows})
        return
    if not rows:
        click.echo(f"no {what} yet; start one with hpo run")
        return
    from hpo.cli.show import table

    header = list(rows[0])
    cells = [[str(row[key]) for key in header] for row in rows]
    click.echo(_left(table, header, cells))


def _left(table: Callable[..., str], header: list[str], cells: list[list[str]]) -> str:
    """The table with every column but the last aligned to the left."""
    widths = [max(len(c) for c in column) for column in zip(header, *cells, strict=True)]
    padded = [[c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in [header, *cells]]
    return str(table(padded[0], padded[1:]))


def _studies(mlruns: Path) -> list[dict[str, Any]]:
    from hpo.console import number
    from hpo.errors import HpoError
    from hpo.folder import studies
    from hpo.lock import holder
    from hpo.result import read

    rows = []
    for folder in studies(mlruns):
        try:
            summary = read(folder).summary()
        except HpoError as error:
            rows.append(_unreadable(folder.name, error.message))
            continue
        best = summary["best"]
        ended = sum(summary["trials"].get(s, 0) for s in ("complete", "pruned", "failed"))
        rows.append(
            {
                "study": folder.name,
                "objective": summary["objective"],
                "sampler": summary["sampler"],
                "trials": f"{ended}/{summary['budget']}",
                "best": f"{summary['metric']} {number(best['value'])}" if best else "-",
                "state": "running" if holder(folder.path) is not None else "",
            }
        )
    return rows


def _unreadable(name: str, why: str) -> dict[str, Any]:
    return {
        "study": name,
        "objective": "?",
        "sampler": "?",
        "trials": "?",
        "best": "-",
        "state": why,
    }


def _samplers(long: bool) -> list[dict[str, Any]]:
    import dataclasses

    from hpo import samplers

    rows = []
    for name in samplers.names():
        record = samplers.load(name)
        row: dict[str, Any] = {"sampler": name}
        if long:
            fields = dataclasses.fields(record.options)
            row["options"] = ", ".join(f"{f.name}={f.default}" for f in fields) or "-"
        rows.append({**row, "about": record.summary})
    return rows


def _pruners() -> list[dict[str, Any]]:
    from hpo import pruners

    return [{"pruner": name} for name in pruners.names()]


def _objectives(long: bool) -> list[dict[str, Any]]:
    import ast

    import objectives as package
    from search_spaces import plugins

    folder = Path(package.__path__[0])
    rows = []
    for name in plugins.names("objectives"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        about = (ast.get_docstring(tree) or "").splitlines()[:1]
        row: dict[str, Any] = {"objective": name}
        if long:
            row["options"] = _fields(name)
        rows.append({**row, "about": about[0] if about else ""})
    return rows


def _fields(name: str) -> str:
    import dataclasses

    from search_spaces import plugins

    target: Any = plugins.load("objectives", name, "OBJECTIVE")
    if not dataclasses.is_dataclass(target):
        return "-"
    shown = []
    for entry in dataclasses.fields(target):
        if entry.init and not entry.name.startswith("_"):
            missing = entry.default is dataclasses.MISSING
            shown.append(entry.name if missing else f"{entry.name}={entry.default}")
    return ", ".join(shown) or "-"


def _regularizers(long: bool) -> list[dict[str, Any]]:
    from hpo.problem import describe
    from search_spaces import plugins

    rows = []
    for name in plugins.names("search_spaces.regularizers"):
        record: Any = plugins.load("search_spaces.regularizers", name, "REGULARIZER")
        for knob, domain in record.knobs.items():
            row = {"knob": knob, "range": describe(domain), "start": domain.start_value()}
            if long:
                row |= {
                    "scope": f"per {record.scope[knob]}",
                    "gradient": "yes" if record.differentiable else "no",
                    "about": record.note,
                }
            rows.append(row)
    return rows


def _spaces() -> list[dict[str, Any]]:
    from search_spaces.presets import PRESETS

    return [{"space": name, "knobs": ", ".join(knobs)} for name, knobs in PRESETS.items()]


def _engines() -> list[dict[str, Any]]:
    from hpo import engines

    return [{"engine": name, "about": engines.load(name).summary} for name in engines.names()]
