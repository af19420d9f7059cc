"""What the tuner of a trial said about itself, as `hpo show --trial` tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.ledger import TrialRecord
from hpo.result import Result
from hpo.spool import Spool
from hpo.summary import first_line
from hpo.wording import knob, number, table
from objectives.training.measurement import DIAGNOSTIC, is_diagnostic

MOST_NOTES = 20  # told, the last ones
# Of each strength: what the column is called, and the metric it shows.
_COLUMNS = {"signal/noise": "snr", "perturbation": "sigma", "mean value": "expected"}
# Of the whole run: metric, how it is called, and what is written behind its value.
_LINES = {
    "stn/gain": ("gain of the response", ""),
    "stn/gain_t": ("  in standard errors", ""),
    "stn/gap_train_val": ("validation above training loss", ""),
    "stn/gap_val_holdout": ("hold-out above validation loss", ""),
    "stn/overhead": ("a step takes longer by", "%"),
    "stn/hyper_share": ("time spent on the knobs", "%"),
    "stn/memory_mib": ("memory of the response", " MiB"),
    "stn/audit_agreement": ("audit: signs that agree", "%"),
    "stn/audit_rank_correlation": ("audit: rank correlation", ""),
    "hypergradient/norm": ("size of the hypergradient", ""),
    "hypergradient/error": ("error that val_loss allows for", ""),
    "hypergradient/slope": ("inner gradient that was left", ""),
    "hypergradient/linear_residual": ("residual of the linear system", ""),
}


@dataclass(frozen=True)
class Told:
    """The last measurement of a trial's last attempt, and all notes with their steps."""

    step: int
    metrics: Mapping[str, float]
    point: Mapping[str, Any]
    notes: tuple[tuple[int, str], ...]

    def document(self) -> dict[str, Any]:
        """As plain data."""
        notes = [{"step": step, "note": note} for step, note in self.notes]
        return {"step": self.step, "metrics": dict(self.metrics), "notes": notes}


def told(result: Result, trial: int) -> Told | None:
    """What the tuner of a trial said, None if it said nothing (most do not tune within a run)."""
    last: Mapping[str, Any] | None = None
    notes: dict[tuple[int, str], None] = {}
    for _, event in Spool(result.folder.spool).read():
        if event["event"] != "measurement" or event["trial"] != trial:
            continue
        if last is not None and event["attempt"] > last["attempt"]:
            notes.clear()
        last = event
        notes |= {(event["step"], str(note)): None for note in event.get("notes") or ()}
    if last is None:
        return None
    metrics = {n: v for n, v in last["metrics"].items() if is_diagnostic(n) and v is not None}
    if not metrics and not notes:
        return None
    return Told(last["step"], metrics, last["point"], tuple(notes))


def lines(result: Result, record: TrialRecord) -> list[str]:
    """A short table of the last diagnostics, what they are held against, and the notes."""
    found = told(result, record.number)
    if found is None:
        return []
    text = ["", f"diagnostics at step {found.step}"]
    text += _strengths(result, found) + _run(found)
    start = result.start
    if start is not None and start.number != record.number and start.value is not None:
        text.append(f"start values, held fixed, reached {number(start.value)} (trial 0)")
    hidden = len(found.notes) - MOST_NOTES
    if hidden > 0:
        text.append(f"… {hidden} earlier notes: --json")
    shown = found.notes[-MOST_NOTES:]
    return text + [f"note at step {step}: {first_line(note)}" for step, note in shown]


def _strengths(result: Result, found: Told) -> list[str]:
    """A row for each strength: how sure its gradient is, its perturbation, value and mean value."""
    names = dict.fromkeys(
        name.removeprefix(f"{DIAGNOSTIC}{what}/")
        for name in found.metrics
        for what in _COLUMNS.values()
        if name.startswith(f"{DIAGNOSTIC}{what}/")
    )
    rows = []
    for name in names:
        domain = result.space.get(name.partition("[")[0])
        cells = []
        for what in _COLUMNS.values():
            value = found.metrics.get(f"{DIAGNOSTIC}{what}/{name}")
            of = domain if what == "expected" else None
            cells.append("-" if value is None else knob(of, value))
        rows.append([name, *cells[:2], knob(domain, _value(found.point, name)), cells[2]])
    header = ["knob", *list(_COLUMNS)[:2], "value", list(_COLUMNS)[2]]
    return table(header, rows, left=["knob"]) if rows else []


def _value(point: Mapping[str, Any], name: str) -> Any:
    """The value of a strength such as `l2[3]`; - for what has none, as an option of a choice."""
    knob_name, _, place = name.partition("[")
    value = point.get(knob_name, "-")
    if not place:
        return value
    entries = value if isinstance(value, list | tuple) else ()
    index = place.rstrip("]")
    return entries[int(index)] if index.isdecimal() and int(index) < len(entries) else "-"


def _run(found: Told) -> list[str]:
    rows = []
    for name, (words, unit) in _LINES.items():
        value = found.metrics.get(name)
        if value is not None:
            rows.append(f"{words:32}{f'{value:.0%}' if unit == '%' else number(value) + unit}")
    return rows
