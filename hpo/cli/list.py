"""hpo list"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from hpo.cli import _catalogue, _options

Rows = list[dict[str, Any]]

EXAMPLES = """\b
Examples:
  hpo list                       studies, the one touched last first
  hpo list regularizers          knobs, and which samplers can tune them
  hpo list augmentations --long  with what each is, and why a sampler cannot tune it
  hpo list spaces                sets of knobs for space:, hpo init --space NAME copies one
  hpo list samplers --long       with their options
"""


@click.command("list", epilog=EXAMPLES, context_settings=_options.HELP)
@click.argument(
    "what",
    type=click.Choice(
        [
            *("studies", "samplers", "pruners", "objectives", "regularizers", "augmentations"),
            *("policies", "spaces", "engines"),
        ]
    ),
    default="studies",
    metavar="[WHAT]",
)
@click.option("--long", "long", is_flag=True, help="Tell more of each.")
@_options.common
def command(what: str, long: bool, mlruns: Path, as_json: bool) -> None:
    """Lists what there is.

    WHAT is studies (the default), samplers, pruners, objectives, regularizers, augmentations,
    policies, spaces or engines. Of a knob it is told which samplers can tune it: those between
    runs, populations, stn, and those that follow hypergradients.
    """
    listing: dict[str, Callable[[], Rows]] = {
        "studies": lambda: _studies(mlruns),
        "samplers": _samplers,
        "pruners": _pruners,
        "objectives": lambda: _objectives(long or as_json),
        "regularizers": _catalogue.regularizers,
        "augmentations": _catalogue.augmentations,
        "policies": _catalogue.policies,
        "spaces": _catalogue.spaces,
        "engines": _engines,
    }
    rows = listing[what]()
    if as_json:
        _options.print_json({what: rows})
    elif not rows:
        click.echo(f"no {what} yet; start one with hpo run")
    else:
        for line in _lines(what, rows, long):
            click.echo(line)


def _lines(what: str, rows: Rows, long: bool) -> list[str]:
    from hpo.wording import table, terminal_width

    if "knob" in rows[0]:
        return _knobs(rows, long)
    shorten = {"studies": _study_cells, "spaces": _space_cells}.get(what)
    if shorten is None and long and "options" in rows[0]:
        return _paragraphs(rows)
    cells = [
        shorten(row, long) if shorten else {k: str(v) for k, v in row.items() if k != "options"}
        for row in rows
    ]
    header = list(cells[0])
    body = [[cell[key] for key in header] for cell in cells]
    return table(header, body, left=header, width=terminal_width())


def _knobs(rows: Rows, long: bool) -> list[str]:
    """Knobs as a table, or each with all there is to say of it."""
    from hpo.wording import table, terminal_width

    if long:
        return [line for row in rows for line in _catalogue.paragraph(row)]
    cells = [_catalogue.cells(row) for row in rows]
    header = list(cells[0])
    body = [[cell[key] for key in header] for cell in cells]
    return table(header, body, left=header, width=terminal_width())


def _space_cells(row: Mapping[str, Any], long: bool) -> dict[str, str]:
    cells = {"space": row["space"], "about": row["about"]}
    return {**cells, "knobs": ", ".join(row["knobs"])} if long else cells


def _paragraphs(rows: Rows) -> list[str]:
    """Each entry with what it is and its options, on lines of their own."""
    from hpo.wording import terminal_width, wrapped

    lines = []
    for row in rows:
        name, *_ = row.values()
        lines += [str(name), f"    {row['about']}"]
        options = [f"{key}={_short(value)}" for key, value in row["options"].items()]
        if options:
            lines += wrapped("    options", options, terminal_width() or 100)
    return lines


def _studies(mlruns: Path) -> Rows:
    from hpo.errors import HpoError
    from hpo.folder import studies
    from hpo.result import read

    rows: Rows = []
    for folder in studies(mlruns):
        try:
            result = read(folder)
        except HpoError as error:
            found = {"study": folder.name, "state": "unreadable", "error": error.message}
            rows.append({**found, "folder": str(folder.path)})
            continue
        rows.append({**result.summary(), "touched": folder.touched()})
    return rows


def _study_cells(row: Mapping[str, Any], _: bool) -> dict[str, str]:
    import datetime

    from hpo.wording import number

    if row["state"] == "unreadable":
        cells = {"study": row["study"], "objective": "?", "sampler": "?", "trials": "?"}
        return {**cells, "best": "-", "touched": "-", "state": f"unreadable: {row['error']}"}
    best = row["best"]
    touched = datetime.datetime.fromtimestamp(row["touched"])
    return {
        "study": row["study"],
        "objective": row["objective"],
        "sampler": row["sampler"],
        "trials": f"{row['ended']}/{row['budget']}",
        "best": f"{row['metric']} {number(best['value'])}" if best else "-",
        "touched": touched.strftime("%Y-%m-%d %H:%M"),
        "state": f"{row['state']} ({row['why']})" if _early(row) else row["state"],
    }


def _early(row: Mapping[str, Any]) -> bool:
    """Whether a study is finished with trials of its budget left."""
    return bool(row["state"] == "finished" and row["ended"] < row["budget"])


def _samplers() -> Rows:
    from hpo import samplers

    rows: Rows = []
    for name in samplers.names():
        record = samplers.load(name)
        rows.append({"sampler": name, "about": record.summary, "options": _set(record.options)})
    return rows


def _pruners() -> Rows:
    from hpo import pruners

    records = pruners.RECORDS
    return [
        {"pruner": name, "about": _first_sentence(record), "options": _set(record)}
        for name, record in records.items()
    ]


def _first_sentence(thing: object) -> str:
    text = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
    return text.removesuffix(".")


def _set(record: Any) -> dict[str, Any]:
    """The options of a record and their defaults; a default it lacks is shown as required."""
    import dataclasses

    if not dataclasses.is_dataclass(record):
        return {}
    fields = [f for f in dataclasses.fields(record) if f.init and not f.name.startswith("_")]
    return {f.name: _default(f) for f in fields}


def _default(field: Any) -> Any:
    import dataclasses

    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)"


def _objectives(long: bool) -> Rows:
    import ast

    import objectives as package
    from search_spaces import plugins

    folder = Path(package.__path__[0])
    rows: Rows = []
    for name in plugins.names("objectives"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        about = (ast.get_docstring(tree) or "").splitlines()[:1]
        row: dict[str, Any] = {"objective": name, "about": about[0] if about else ""}
        if long:  # only now is anything of it imported
            row["options"] = _set(plugins.load("objectives", name, "OBJECTIVE"))
        rows.append(row)
    return rows


def _short(value: Any) -> str:
    from hpo.wording import number

    return f"{value:g}" if isinstance(value, float) else number(value)


def _engines() -> Rows:
    from hpo import engines

    return [{"engine": name, "about": engines.load(name).summary} for name in engines.names()]
