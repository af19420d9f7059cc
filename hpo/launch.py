"""Runs a study from its spec to its result: the one path behind `hpo run` and `hpo.run`."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import engines
from hpo import folder as folders
from hpo import problem as problems
from hpo.engines import Slots
from hpo.errors import HpoError, Interrupted, NothingSucceeded
from hpo.folder import Folder
from hpo.problem import Problem
from hpo.result import Result, read
from hpo.spec import CHANGEABLE, StudySpec, from_mapping
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from hpo.study import Sink, Study
    from hpo.tracking import Tracker


@dataclass(frozen=True)
class Launch:
    """How to run: where, whether to continue, who listens."""

    mlruns: Path = Path(folders.DEFAULT_MLRUNS)
    resume: bool = False
    sinks: Sequence[Sink] = ()
    warn: Callable[[str], None] = print
    start: Mapping[str, Any] | None = None
    header: Callable[[Problem, Path, Path, str], None] | None = None


def launch(spec: StudySpec, how: Launch) -> Result:
    """Runs the study to its budget and returns what its ledger says then.

    Raises Conflict (name taken, or driven elsewhere), Interrupted (stopped by the user, resumable),
    NothingSucceeded, or HpoError for a mistake in the spec; with these, nothing is lost.
    """
    spec, folder, problem = prepare(spec, how)
    from hpo.opening import open_for_driving

    folders.create(spec.name, how.mlruns)
    if not folder.exists() or how.resume:
        folders.write_spec(folder, problem.spec.plain())
    if how.header is not None:
        how.header(problem, folder.path, folder.mlruns, workers_text(spec))
    study = open_for_driving(problem, folder)
    study.sinks.extend(how.sinks)
    tracker = _tracker(study, how)
    try:
        status = _drive(study, how)
    finally:
        _finish(study, tracker, how)
    result = read(folder)
    _raise_unless_done(result, status, study)
    return result


def prepare(spec: StudySpec, how: Launch) -> tuple[StudySpec, Folder, Problem]:
    """Everything that can fail before a trial starts: names, space, sampler, engine, devices."""
    from hpo import pruners, samplers

    folder = Folder(how.mlruns.absolute() / "studies" / spec.name)
    if how.resume:
        spec = resumed(spec, folder)
    else:
        folders.refuse_existing(folder, _described(folder) if folder.exists() else "")
    engines.load(spec.engine)
    _refuse_old_store(spec, how.mlruns)
    problem = problems.load(spec)
    if how.start is not None:
        problem = replace(problem, space=_started(problem, how.start))
    spec = problem.spec.model_copy(update={"space": problem.space.spec()})
    problem = replace(problem, spec=spec)
    sampler = samplers.load(spec.sampler)
    options = samplers.parse_options(sampler, spec.sampler_options)
    request = samplers.Request(problem.space.coordinates(), options, spec.budget.trials)
    samplers.check(sampler, spec.sampler, request)
    pruners.build(spec.prune, 1, None)
    check_devices(spec)
    return spec, folder, problem


def _refuse_old_store(spec: StudySpec, mlruns: Path) -> None:
    """Raises HpoError if MLflow would refuse the folder: it holds runs in the withdrawn format."""
    if not spec.mlflow or spec.tracking_uri:
        return
    from hpo.tracking.address import old_file_store

    text = old_file_store(mlruns)
    if text is not None:
        message, _, hint = text.partition("\n")
        raise HpoError(message, hint=hint, code="old-file-store")


def resumed(spec: StudySpec, folder: Folder) -> StudySpec:
    """The stored spec with what may change taken from `spec`. Raises HpoError on other changes."""
    if not folder.exists():
        raise HpoError(
            f"study {spec.name} does not exist under {folder.path.parent}",
            hint="leave --resume out to start it, or see hpo list",
            code="unknown-study",
        )
    stored = folders.read_spec(folder)
    given = spec.model_fields_set - {"name", "objective"}
    changes: dict[str, Any] = {}
    for key in given:
        value = getattr(spec, key)
        if key in CHANGEABLE:
            changes[key] = _merged_budget(stored, spec) if key == "budget" else value
        elif key != "space" and value != getattr(stored, key):
            raise HpoError(
                f"study {spec.name} was started with {key} {getattr(stored, key)!r}, not {value!r}",
                hint="a resumed study may change only budget, workers, GPUs, memory, retries and"
                " engine; choose another --name for anything else",
                code="changed-spec",
                found=value,
                path=(key,),
            )
    return stored.model_copy(update=changes)


def _merged_budget(stored: StudySpec, spec: StudySpec) -> Any:
    given = {key: getattr(spec.budget, key) for key in spec.budget.model_fields_set}
    if given.get("steps", stored.budget.steps) != stored.budget.steps:
        raise HpoError(
            f"study {spec.name} trains {stored.budget.steps or 'its default number of'} steps a"
            f" trial, not {given['steps']}",
            hint="trials of one study cost the same; choose another --name",
            code="changed-spec",
            path=("budget", "steps"),
        )
    return stored.budget.model_copy(update=given)


def _started(problem: Problem, start: Mapping[str, Any]) -> SearchSpace:
    """The space with its start values taken from `start` where it names them."""
    shared = {name: value for name, value in start.items() if name in problem.space}
    if not shared:
        raise HpoError(
            f"--start-from: it holds {', '.join(start) or 'nothing'}, none of which is searched",
            hint=f"searched: {', '.join(problem.space)}",
            code="start-from",
        )
    domains: dict[str, Any] = dict(problem.space)
    for name, value in shared.items():
        if not domains[name].contains(value):
            raise HpoError(
                f"--start-from: {name} {value!r} is outside {problems.describe(domains[name])}",
                hint="widen its range in the study file",
                code="start-from",
                path=("space", name),
            )
        domains[name] = replace(domains[name], start=value)
    return SearchSpace(domains)


def workers_text(spec: StudySpec) -> str:
    """`2 workers on cpu`, `4 workers with 0.5 GPU each`."""
    count = workers(spec)
    if count == 0:
        return "in this process"
    plural = "worker" if count == 1 else "workers"
    where = f"with {spec.gpus_per_trial:g} GPU each" if spec.gpus_per_trial else "on cpu"
    return f"{count} {plural} {where}"


def workers(spec: StudySpec) -> int:
    """How many trials run at once: as asked, else as many as the GPUs hold, else one."""
    from hpo.engines._devices import visible_gpus

    if spec.workers is not None:
        return spec.workers
    if spec.gpus_per_trial:
        return max(1, int(len(visible_gpus()) / spec.gpus_per_trial + 1e-9))
    return 1


def check_devices(spec: StudySpec) -> None:
    """Raises Unavailable if the GPUs asked for are not there."""
    from hpo.engines._devices import environments

    if spec.engine == "optuna" and workers(spec):
        environments(Slots(workers(spec), spec.gpus_per_trial))


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("hpo-schedules", "torch", "optuna", "mlflow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spec_from_keywords(**keywords: Any) -> StudySpec:
    """The spec behind keyword arguments: budget's fields may be given flat (trials=4)."""
    budget = dict(keywords.pop("budget", {}) or {})
    for key in ("trials", "steps", "time", "plateau"):
        if key in keywords:
            budget[key] = keywords.pop(key)
    data = {key: value for key, value in keywords.items() if value is not None}
    if budget:
        data["budget"] = {key: value for key, value in budget.items() if value is not None}
    return from_mapping(data)


def _tracker(study: Study, how: Launch) -> Tracker | None:
    spec = study.spec
    study.emit(
        "study",
        study=spec.name,
        key=_study_key(study),
        experiment=spec.objective,
        params=_flat({**spec.plain(), "versions": versions()}),
        tags={
            "hpo.study": spec.name,
            "hpo.sampler": spec.sampler,
            "hpo.seed": str(spec.seed),
            **_git_state(),
        },
        artifacts=[str(study.folder.spec)],
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
    slots = Slots(workers(spec), spec.gpus_per_trial, spec.memory_per_trial)
    try:
        engines.load(spec.engine).run(study, slots)
    except KeyboardInterrupt:
        study.stopping = study.stopping or "interrupted"
        return "interrupted"
    return "stopped" if study.stopping else "finished"


def _finish(study: Study, tracker: Tracker | None, how: Launch) -> None:
    found = study.records()
    from hpo import ledger

    ranked = ledger.ranked(found, study.spec.direction)
    artifacts = [study.folder.spec, study.folder.schedule]
    study.emit(
        "close",
        status="stopped" if study.stopping else "finished" if ranked else "failed",
        best=ranked[0].number if ranked else None,
        ranks={str(r.number): i for i, r in enumerate(ranked, start=1)},
        tags={},
        artifacts=[str(path) for path in artifacts if path.exists()],
    )
    if tracker is not None:
        delivery = tracker.close(timeout=60.0)
        if delivery.pending:
            how.warn(
                f"MLflow has not received {delivery.pending} events ({delivery.error}). Nothing is"
                f" lost: they wait in {study.folder.spool} for the next hpo run --resume or hpo ui"
            )
    study.close()


def _raise_unless_done(result: Result, status: str, study: Study) -> None:
    name = result.spec.name
    ended = sum(r.state in {"complete", "pruned", "failed"} for r in result.records)
    if status == "interrupted":
        raise Interrupted(
            f"saved. {ended} of {result.spec.budget.trials} trials are done.  "
            f"continue:  hpo run --resume --name {name}",
            code="interrupted",
        )
    if result.best is None and ended and not study.stopping:
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
        messages.setdefault(record.message or record.reason, []).append(record.number)
    common = max(messages, key=lambda message: len(messages[message]))
    numbers = messages[common]
    all_with = "all with" if len(messages) == 1 else f"{len(numbers)} of them with"
    return NothingSucceeded(
        f"{len(failed)} of {total} trials failed, {all_with}: {common}",
        hint=f"First traceback: hpo show {result.spec.name} --trial {numbers[0]}",
        code="nothing-succeeded",
        found=common,
    )


def _described(folder: Folder) -> str:
    try:
        result = read(folder)
    except HpoError:
        return "unreadable"
    ended = [r for r in result.records if r.state in {"complete", "pruned", "failed"}]
    plural = "trial" if len(ended) == 1 else "trials"
    state = "finished" if len(ended) >= result.spec.budget.trials else "stopped"
    file = folder.journal if folder.journal.exists() else folder.spec
    when = datetime.datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    return f"{len(ended)} {plural}, {state} {when}"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _git_state() -> dict[str, str]:
    """The commit of the working folder and whether it is clean; nothing outside a repository."""
    import shutil
    import subprocess

    git = shutil.which("git")
    if git is None:
        return {}

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                [git, *arguments], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = ask("status", "--porcelain", "--untracked-files=no")
    return {"hpo.git_commit": commit, "hpo.git_dirty": "false" if changed == "" else "true"}
