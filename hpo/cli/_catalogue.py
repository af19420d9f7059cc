"""What can be tuned by name, as rows of `hpo list`: knobs, their ranges, and who can tune them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def regularizers() -> list[Row]:
    """Every knob of every regularizer."""
    from search_spaces import catalogue, plugins

    return [row for name in plugins.names(catalogue.REGULARIZERS) for row in _rows(name)]


def augmentations() -> list[Row]:
    """Every operation, with what it works on."""
    from search_spaces import catalogue, plugins

    rows = []
    for name in plugins.names(catalogue.OPERATIONS):
        operation = catalogue.operation(name)
        for row in _rows(f"augment.{name}"):
            inputs = {"kind": operation.kind, "channels": operation.channels}
            rows.append({"knob": row.pop("knob"), **inputs, **row})
    return rows


def policies() -> list[Row]:
    """Every knob of every policy."""
    from search_spaces import catalogue, plugins

    return [row for name in plugins.names(catalogue.POLICIES) for row in _rows(name)]


def spaces() -> list[Row]:
    """Every preset, its knobs and what it is for."""
    from search_spaces import presets

    return [
        {"space": name, "about": presets.about(name), "knobs": presets.load(name)}
        for name in presets.names()
    ]


def _rows(name: str) -> list[Row]:
    from hpo import tunable
    from hpo.wording import describe
    from search_spaces import catalogue

    record = catalogue.load(name)
    rows = []
    for knob, domain in record.knobs.items():
        answers = tunable.answers(record, knob)
        rows.append(
            {
                "knob": knob,
                "range": describe(domain),
                "start": domain.start_value(),
                "off": domain.off,
                "scope": record.scope[knob],
                "differentiable": record.differentiable,
                "samplers": {
                    kind: [answer.sampler for answer in given if answer.can]
                    for kind, given in answers.items()
                },
                "tuned": {kind: tunable.word(given) for kind, given in answers.items()},
                "why_not": {
                    answer.sampler: answer.why_not
                    for given in answers.values()
                    for answer in given
                    if not answer.can
                },
                "about": record.note,
                "source": catalogue.about(name),
            }
        )
    return rows


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A line of the table."""
    from hpo.wording import brief, number
    from search_spaces import catalogue

    start = row["start"]
    start = f"{start:g}" if isinstance(start, float) else number(start)
    inputs = {}
    if "kind" in row:
        inputs = {"kind": row["kind"], "channels": str(row["channels"] or "any")}
    return {
        "knob": row["knob"],
        **inputs,
        "range": brief(catalogue.knobs()[row["knob"]]),
        "start": start,
        "gradient": "yes" if row["differentiable"] else "no",
        **row["tuned"],
    }


def paragraph(row: Mapping[str, Any]) -> list[str]:
    """A knob with where it comes from, what it does, and why a sampler cannot tune it."""
    told = cells(row)
    about = [part for part in (row["source"], row["about"]) if part]
    said = f"{row['range']}, starts at {told['start']}"
    if row["off"] is not None:
        said += f", off at {row['off']:g}"
    scope = f"one strength per {row['scope']}, gradient: {told['gradient']}"
    lines = [f"{row['knob']}  {said}", *about, scope]
    reasons: dict[str, list[str]] = {}
    for sampler, reason in row["why_not"].items():
        reasons.setdefault(reason, []).append(sampler)
    lines += [f"not tuned by {', '.join(names)}: {why}" for why, names in reasons.items()]
    return [lines[0], *(f"    {line}" for line in lines[1:])]
