"""Runs a study from its spec to its result: the one path behind `hpo run` and `hpo.run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpo import ended, engines
from hpo import folder as folders
from hpo.errors import HpoError, Interrupted, NothingSucceeded
from hpo.folder import Folder
from hpo.opening import open_for_driving
from hpo.preparation import Launch, prepare, slots, slots_text
from hpo.provenance import git_state, versions
from hpo.result import Result
from hpo.spec import StudySpec
from hpo.summary import first_line, worker_log
from hpo.wording import mlruns_option, shown

if TYPE_CHECKING:
    from hpo.study import Study
    from hpo.tracking import Delivery, Tracker


def launch(spec: StudySpec, how: Launch) -> Result:
    """Runs the study to its budget and returns what its ledger says then.

    Raises Conflict (name taken, or driven elsewhere), Interrupted (stopped by the user, resumable),
    NothingSucceeded, or HpoError for a mistake in the spec; with these, nothing is lost.
    """
    spec, folder, problem = prepare(spec, how)
    folders.create(spec.name, how.mlruns)
    study = open_for_driving(problem, folder, how.resume, how.warn)
    try:
        if how.header is not None:
            how.header(problem, folder.path, folder.mlruns, slots_text(spec))
        study.sinks.extend(how.sinks)
        tracker = _tracker(study, how)
    except BaseException:
        study.close()
        raise
    status = "failed"
    try:
        status = _drive(study, how)
    finally:
        try:
            result, delivery = _concluded(study, folder, status, tracker)
        finally:
            study.close()
    if delivery is not None and delivery.pending:
        how.warn(
            f"MLflow has not received {delivery.pending} events ({delivery.error}). Nothing is"
            f" lost: they wait in {study.folder.spool} for the next hpo run --resume or hpo ui"
        )
    _raise_unless_done(result, status, study)
    return result


def _tracker(study: Study, how: Launch) -> Tracker | None:
    spec = study.spec
    study.begin(
        study=spec.name,
        key=_study_key(study),
        experiment=spec.objective,
        params=_flat({**spec.shown(), "versions": versions()}),
        tags={
            "hpo.study": spec.name,
            "hpo.sampler": spec.sampler,
            "hpo.seed": str(spec.seed),
            **git_state(),
        },
        artifacts=[] if spec.secret else [str(study.folder.spec)],
        metric=spec.metric,
    )
    if not spec.mlflow:
        return None
    from hpo.tracking import Tracker, default_uri

    mlruns = study.folder.mlruns
    uri = spec.tracking_uri or default_uri(mlruns)
    tracker = Tracker(study.spool, uri, mlruns / "artifacts", study.folder.cursor, warn=how.warn)
    tracker.start()
    return tracker


def _study_key(study: Study) -> str:
    """One id of this study for ever, so that its runs are found again after a crash."""
    import uuid

    key = study.optuna.user_attrs.get("hpo:key")
    if key is None:
        key = uuid.uuid4().hex
        study.optuna.set_user_attr("hpo:key", key)
    return str(key)


def _drive(study: Study, how: Launch) -> str:
    spec = study.spec
    try:
        engines.load(spec.engine).run(study, slots(spec))
    except KeyboardInterrupt:
        study.stopping = study.stopping or "interrupted"
        return "interrupted"
    return "stopped" if study.stopping else "finished"


def _concluded(
    study: Study, folder: Folder, status: str, tracker: Tracker | None
) -> tuple[Result, Delivery | None]:
    """What the ledger says at the end, and what was delivered. Raises HpoError, having told
    listeners, if the ledger cannot be read."""
    try:
        result = Result(folder, study.spec, study.records())
    except HpoError:
        _finish(study, None, "failed", tracker)
        raise
    return result, _finish(study, result, status, tracker)


def _finish(
    study: Study, result: Result | None, status: str, tracker: Tracker | None
) -> Delivery | None:
    ranked = result.ranked if result is not None else []
    spec_file = [] if study.spec.secret else [study.folder.spec]
    artifacts = [*spec_file, study.folder.schedule, study.folder.policy]
    if result is not None and result.best is not None and status != "interrupted":
        from hpo.policysheet import write_of_study

        best = result.best
        write_of_study(study.problem, best.schedule, best.number, study.folder.policy)
    told = {"interrupted": "stopped", "finished": "finished" if ranked else "failed"}
    reason = {"finished": ended.why(study)} if status == "finished" else {"failed": "error"}
    study.emit(
        "close",
        status=told.get(status, status),
        why=reason.get(status, status),
        best=ranked[0].number if ranked else None,
        ranks={str(r.number): i for i, r in enumerate(ranked, start=1)},
        tags={},
        artifacts=[str(path) for path in artifacts if path.exists()],
    )
    return tracker.close(timeout=60.0) if tracker is not None else None


def _raise_unless_done(result: Result, status: str, study: Study) -> None:
    name, count = result.spec.name, result.ended
    if status == "interrupted":
        raise Interrupted(
            f"saved. {count} of {result.spec.budget.trials} trials are done.  "
            f"continue:  hpo run --resume --name {name}{mlruns_option(result.folder.mlruns)}",
            code="interrupted",
        )
    if result.best is None and count and not study.stopping:
        raise nothing_succeeded(result)


def nothing_succeeded(result: Result) -> NothingSucceeded:
    """The error for a study in which every trial failed, grouped by message."""
    failed = [r for r in result.records if r.state == "failed"]
    total = len([r for r in result.records if r.state not in {"waiting", "running"}])
    if not failed:
        return NothingSucceeded(
            f"{total} trials ended, none of them completed (all pruned)",
            hint="prune later, or set prune: none",
            code="nothing-succeeded",
        )
    messages: dict[str, list[int]] = {}
    for record in failed:
        messages.setdefault(first_line(record.message or record.reason), []).append(record.number)
    common = max(messages, key=lambda message: len(messages[message]))
    numbers = messages[common]
    all_with = "all with" if len(messages) == 1 else f"{len(numbers)} of them with"
    option = mlruns_option(result.folder.mlruns)
    traced = any((result.folder.trial(n) / "error.txt").exists() for n in numbers)
    look = f"{'First traceback' if traced else 'The first'}: hpo show {result.spec.name}"
    logs = [log for n in numbers if (log := worker_log(result, result.records[n])) is not None]
    advice = f"\nwhat its worker said: {shown(logs[0])}" if logs else ""
    if any(record.reason == "oom" for record in failed):
        advice += (
            "\nmore memory for each: memory_per_trial, fewer --workers, or a smaller objective"
        )
    return NothingSucceeded(
        f"{len(failed)} of {total} trials failed, {all_with}: {common}",
        hint=f"{look} --trial {numbers[0]}{option}{advice}",
        code="nothing-succeeded",
        found=common,
    )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
