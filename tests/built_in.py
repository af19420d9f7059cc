"""The section of the README that says what is built in, made from the code."""

from __future__ import annotations

from typing import Any

from hpo import samplers, tunable
from hpo.wording import brief
from search_spaces import catalogue, plugins, presets

BEGIN, END = "<!-- built in: made by tests/test_readme.py -->", "<!-- built in: the end -->"
MOST = 8  # knobs of a line that are told
GROUPS = ("populations", "stn", "hypergradients")


def section() -> str:
    """All there is of regularizers, operations, policies and spaces, as tables."""
    between = [
        name for name in samplers.names()
        if tunable.group(name, samplers.load(name)) == "between runs"
    ]  # fmt: skip
    quoted = ", ".join(f"`{name}`" for name in between)
    return "\n".join(
        [
            f"Samplers between runs ({quoted}) tune every knob.",
            "The last columns say who else does; `hpo list regularizers --long` says why not.",
            "",
            *_records("regularizer", plugins.names(catalogue.REGULARIZERS)),
            "",
            *_records(
                "operation", [f"augment.{name}" for name in plugins.names(catalogue.OPERATIONS)]
            ),
            "",
            *_records("policy", plugins.names(catalogue.POLICIES)),
            "",
            "| space | for | knobs |",
            "|---|---|---|",
            *(_space(name) for name in presets.names()),
        ]
    )


def _records(kind: str, names: list[str]) -> list[str]:
    head = f"| {kind} | is | knobs | {' | '.join(GROUPS)} |"
    return [head, "|---" * (3 + len(GROUPS)) + "|", *(_record(name) for name in names)]


def _record(name: str) -> str:
    record = catalogue.load(name)
    every = [_knob(name, knob, domain) for knob, domain in record.knobs.items()]
    knobs = _listed(every)
    # What holds for its strength is told; of an operation that is all it has.
    strength = next((k for k, domain in record.knobs.items() if domain.off is not None), "")
    told = tunable.answers(record, strength or next(iter(record.knobs)))
    words = [tunable.word(told[kind]) for kind in tunable.GROUPS if kind in GROUPS]
    return f"| `{name}` | {_cell(_said(name))} | {_cell(knobs)} | {' | '.join(words)} |"


def _said(name: str) -> str:
    about = catalogue.about(name).removesuffix(".")
    kind: Any = ""
    if name.startswith("augment."):
        operation: Any = plugins.load(
            catalogue.OPERATIONS, name.removeprefix("augment."), "OPERATION"
        )
        channels = f", {operation.channels} channels" if operation.channels else ""
        kind = f" ({operation.kind}{channels})"
    return f"{about}{kind}"


def _knob(name: str, knob: str, domain: Any) -> str:
    told = brief(domain)
    return told if knob == name else f"`{knob}` {told}"


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _space(name: str) -> str:
    knobs = [f"`{knob}`" for knob in presets.load(name)]
    return f"| `{name}` | {_cell(presets.about(name))} | {_listed(knobs)} |"


def _listed(knobs: list[str]) -> str:
    more = [f"… {len(knobs)} in all"] if len(knobs) > MOST else []
    return ", ".join([*knobs[: MOST if more else None], *more])
