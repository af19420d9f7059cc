"""A study and its trials as `hpo show` tells them, in lines and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hpo import ended
from hpo.cli import _diagnostics
from hpo.errors import HpoError, printable
from hpo.events import took_over
from hpo.ledger import TrialRecord
from hpo.result import Result
from hpo.spool import Spool
from hpo.summary import against_start, continuation, first_line, worker_log
from hpo.wording import column, duration, knob, number, table, terminal_width, without
from hpo.wording import shown as shown_path

TAIL = 300_000  # bytes of the events in which the last word of a running trial is looked for


def trial(result: Result, number: int) -> TrialRecord:
    """The trial of this number. Raises HpoError if there is none."""
    record = next((r for r in result.records if r.number == number), None)
    if record is None or record.state == "waiting":
        begun = [r.number for r in result.records if r.state != "waiting"]
        raise HpoError(
            f"study {result.spec.name} has no trial {number}",
            hint=f"it has trials 0 to {max(begun)}" if begun else "no trial has begun yet",
            code="unknown-trial",
            found=number,
        )
    return record


def document(result: Result) -> dict[str, Any]:
    """The whole study as plain data."""
    rows = [
        {
            "rank": rank,
            "trial": record.number,
            "value": record.value,
            "holdout": record.holdout,
            "step": record.step,
            "start": dict(record.coordinates),
            "end": reached(result, record),
            "seconds": record.seconds,
        }
        for rank, record in enumerate(result.ranked, start=1)
    ]
    failures = [
        {"trial": r.number, "reason": r.reason, "message": r.message}
        for r in result.records
        if r.state == "failed"
    ]
    return {**result.summary(), "leaderboard": rows, "failures": failures}


def lines(result: Result, top: int) -> list[str]:
    """Status, best, leaderboard and failures."""
    spec, now = result.spec, result.state
    counts: dict[str, int] = {}
    for record in result.records:
        word = "left open" if record.state == "running" and now != "running" else record.state
        if word != "waiting":
            counts[word] = counts.get(word, 0) + 1
    counted = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    text = [
        f"study {spec.name}   objective {spec.objective}   sampler {spec.sampler}   {now}",
        f"trials      {result.ended} of {spec.budget.trials} ended ({counted or 'none yet'})",
        *_finished(result),
        *_best(result),
        f"folder      {shown_path(result.folder.path)}",
    ]
    if now == "running":
        text += _running(result)
    if result.ranked:
        text += ["", *_leaderboard(result, top)]
    return text + _failures(result)


def _finished(result: Result) -> list[str]:
    """Why a study is finished with trials of its budget left."""
    if result.state != "finished" or result.ended >= result.spec.budget.trials:
        return []
    return [f"finished    {ended.told(result.why, result.spec)}{continuation(result)}"]


def _best(result: Result) -> list[str]:
    best, start = result.best, result.start
    if best is None:
        return []
    reached = against_start(start, best.number)
    held = "" if best.holdout is None else f"   hold-out {number(best.holdout)}"
    metric = result.spec.metric
    return [f"best        trial {best.number}, {metric} {number(best.value)}{reached}{held}"]


def _running(result: Result) -> list[str]:
    """The last word of each trial that runs now."""
    running = {r.number for r in result.records if r.state == "running"}
    spool, metric = Spool(result.folder.spool), result.spec.metric
    last: dict[int, str] = {}
    for _, event in spool.read(max(0, spool.size() - TAIL)):
        if event["event"] == "measurement" and event["trial"] in running:
            value = event["metrics"].get(metric)
            said = "" if value is None else f", {metric} {number(value)}"
            last[event["trial"]] = f" at {event['progress']:.0%} (step {event['step']}{said})"
    return [f"running     trial {n}{last.get(n, ' has begun')}" for n in sorted(running)]


def _leaderboard(result: Result, top: int) -> list[str]:
    knobs, shown = result.space.coordinates(), result.ranked[:top]
    held = ["hold-out"] if any(record.holdout is not None for record in shown) else []
    header = ["rank", "trial", result.spec.metric, *held, "best step", *knobs, "time"]
    values = column([record.value for record in shown])
    holdouts = column([record.holdout for record in shown])
    reached_by = [reached(result, record) for record in shown]
    rows = [
        [
            str(rank),
            str(r.number),
            value,
            *([holdout] if held else []),
            str(r.step),
            *(knob(knobs[n], ends[n]) if n in ends else "-" for n in knobs),
            duration(r.seconds),
        ]
        for rank, (r, value, holdout, ends) in enumerate(
            zip(shown, values, holdouts, reached_by, strict=True), 1
        )
    ]
    kept, fitting, gone = without(header, rows, list(knobs), terminal_width())
    text = table(kept, fitting)
    hidden = len(result.ranked) - top
    if hidden > 0:
        text.append(f"… {hidden} more: --top {len(result.ranked)}, or --csv")
    if any(record.schedule is not None for record in shown):
        text.append("Knobs that moved while the trial trained are shown where they ended.")
    if gone:
        text.append(f"… too narrow for {', '.join(gone)}: --csv")
    return text


def _failures(result: Result) -> list[str]:
    groups: dict[str, list[int]] = {}
    for record in result.records:
        if record.state == "failed":
            message = first_line(record.message or record.reason)
            groups.setdefault(message, []).append(record.number)
    text = []
    for message, numbers in sorted(groups.items(), key=lambda group: -len(group[1])):
        text.append(f"  {len(numbers)} x  {message}   ({_numbers(numbers)})")
        logs = [worker_log(result, result.records[n]) for n in numbers]
        text += [f"       its worker's log: {shown_path(log)}" for log in logs if log][:1]
    retried = [record for record in result.records if record.attempts]
    for record in retried[:8]:
        reasons = ", ".join(str(attempt["reason"]) for attempt in record.attempts)
        text.append(f"  trial {record.number} was tried again after: {reasons}")
    if len(retried) > 8:
        text.append(f"  … {len(retried) - 8} more were tried again")
    return ["", "failures", *text] if text else []


def _numbers(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"{'trial' if len(numbers) == 1 else 'trials'} {listed}"


def trial_document(result: Result, record: TrialRecord) -> dict[str, Any]:
    """One trial as plain data."""
    diagnostics = _diagnostics.told(result, record.number)
    return {
        "study": result.spec.name,
        "trial": asdict(record),
        "schedule": result.schedule_of(record).to_json(),
        "traceback": _traceback(result, record),
        "diagnostics": None if diagnostics is None else diagnostics.document(),
    }


def trial_lines(result: Result, record: TrialRecord) -> list[str]:
    """One trial in full: values, knobs, metrics, earlier attempts, traceback."""
    worker = f"   on {record.worker}" if record.worker else ""
    text = [f"trial {record.number}   {record.state}   {duration(record.seconds)}{worker}"]
    if record.value is not None:
        text.append(f"{result.spec.metric}   {number(record.value)} at step {record.step}")
    if record.holdout is not None:
        text.append(f"hold-out   {number(record.holdout)}")
    text += _knobs(result, record) + _metrics(record) + _diagnostics.lines(result, record)
    if record.lineage:
        text.append(f"went on from {took_over(record.lineage)}")
    for attempt in record.attempts:
        message = first_line(str(attempt["message"]))
        text.append(f"tried before: {attempt['reason']}: {message}")
    if record.message:
        text += ["", printable(record.message)]
    log = worker_log(result, record)
    if log is not None:
        text.append(f"its worker's log: {shown_path(log)}")
    trace = _traceback(result, record)
    return [*text, "", printable(trace).rstrip()] if trace else text


def _knobs(result: Result, record: TrialRecord) -> list[str]:
    domains = result.space.coordinates()
    moved, ends = record.schedule is not None, reached(result, record)
    rows = [
        [name, knob(domains.get(name), value), knob(domains.get(name), ends[name])]
        for name, value in record.coordinates.items()
    ]
    rows += [[f"{name} (fixed)", *[number(value)] * 2] for name, value in result.fixed.items()]
    header = ["knob", "start", "end"] if moved else ["knob", "value"]
    shown = rows if moved else [row[:2] for row in rows]
    return ["", *table(header, shown, left=["knob"])] if rows else []


def reached(result: Result, record: TrialRecord) -> dict[str, Any]:
    """The proposed coordinates of a trial, with those that moved within it where they ended."""
    found = dict(record.coordinates)
    if record.schedule is not None:
        for name, value in result.schedule_of(record).at(1.0).items():
            if name in found:  # a number, or a long vector that shares one
                found[name] = value
                continue
            parts = value if isinstance(value, tuple) else (value,)
            names = [f"{name}[{k}]" for k in range(len(parts))]
            found |= {n: part for n, part in zip(names, parts, strict=True) if n in found}
    return found


def _metrics(record: TrialRecord) -> list[str]:
    """Each metric at the best step and at the last one, then what the trial cost."""
    names = dict.fromkeys(
        name.partition("/")[2] for name in record.metrics if name.startswith(("best/", "final/"))
    )
    names.pop("step", None)
    rows = [
        [name, *(_metric(record, f"{when}/{name}") for when in ("best", "final"))] for name in names
    ]
    text = ["", *table(["metric", "best", "final"], rows, left=["metric"])] if rows else []
    costs = {
        name.partition("/")[2]: value
        for name, value in record.metrics.items()
        if name.startswith("cost/")
    }
    if costs:
        text += ["", "cost   " + "   ".join(f"{value:g} {name}" for name, value in costs.items())]
    return text


def _metric(record: TrialRecord, name: str) -> str:
    return number(record.metrics[name]) if name in record.metrics else "-"


def _traceback(result: Result, record: TrialRecord) -> str:
    file = result.folder.trial(record.number) / "error.txt"
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
