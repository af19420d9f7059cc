"""Everything that can fail before a trial starts: names, space, sampler, engine, devices."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import engines, fitting, linting, reference
from hpo import folder as folders
from hpo import problem as problems
from hpo.engines import Slots
from hpo.errors import HpoError
from hpo.folder import Folder
from hpo.masking import without_password
from hpo.problem import Problem
from hpo.result import read
from hpo.spec import CHANGEABLE, StudySpec, from_mapping
from hpo.wording import plural
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from hpo.study import Sink


@dataclass(frozen=True)
class Launch:
    """How to run: where, whether to continue, who listens."""

    mlruns: Path = Path(folders.DEFAULT_MLRUNS)
    resume: bool = False
    sinks: Sequence[Sink] = ()
    warn: Callable[[str], None] = print
    start: Mapping[str, Any] | None = None
    header: Callable[[Problem, Path, Path, str], None] | None = None


def prepare(spec: StudySpec, how: Launch) -> tuple[StudySpec, Folder, Problem]:
    """All that can fail before a trial starts: the name, what `resolve` looks at, what the linter
    does; of a study that has begun, what that found then."""
    folder = Folder(how.mlruns.absolute() / "studies" / spec.name)
    if not how.resume:
        folders.refuse_existing(folder, described(folder) if folder.exists() else "")
        problem = linting.linted(resolve(spec, how))
        if not isinstance(spec.space, str):
            fitting.check(problem)
        return problem.spec, folder, problem
    if how.start is not None:
        raise HpoError(
            f"--start-from: study {spec.name} has begun",
            hint="leave it out, or begin another study with --name",
            code="start-from",
        )
    problem = linting.kept(resolve(resumed(_placed(spec), folder), how), folder)
    if "space" in spec.model_fields_set and spec.space != problem.spec.space:
        _refuse_other_space(spec, problem)
    return problem.spec, folder, problem


def resolve(spec: StudySpec, how: Launch) -> Problem:
    """The problem with its spec spelled out: objective, space, sampler, pruner, engine, devices.

    Raises HpoError with the path of the key at fault.
    """
    from hpo import packable, pruners, samplers, scheduling, tuning

    engines.require(spec.engine)
    spec = _placed(spec if how.resume else _tracked(spec))
    _check_tracking(spec, how.mlruns)
    problem = problems.load(spec)
    if how.start is not None:
        problem = replace(problem, space=_started(problem, how.start))
    spec = problem.spec.model_copy(update={"space": problem.space.spec()})
    sampler = samplers.load(spec.sampler)
    options = samplers.parse_options(sampler, spec.sampler_options, spec.sampler)
    request = samplers.Request(problem.space.coordinates(), options, spec.budget.trials)
    samplers.check(sampler, spec.sampler, request)
    tuning.check(problem)
    pruners.build(spec.prune, 1, None)
    scheduling.check(problem)
    check_devices(spec)
    return packable.checked(replace(problem, spec=spec))


def _tracked(spec: StudySpec) -> StudySpec:
    """A new study's spec with the address from the environment, if it names none itself: MLflow's
    own programs go there as well. It is stored, so that a resumed study stays where it began."""
    if not spec.mlflow or spec.tracking_uri:
        return spec
    from hpo.tracking.address import environment_uri

    return spec.model_copy(update={"tracking_uri": environment_uri()})


def _placed(spec: StudySpec) -> StudySpec:
    """The spec with addresses that mean the same from every working directory.

    Raises HpoError for one that no database or MLflow server can have.
    """
    places: dict[str, str] = {}
    if spec.storage is not None:
        from hpo.storage import resolved

        places["storage"] = resolved(spec.storage)
    if spec.mlflow and spec.tracking_uri:
        from hpo.tracking.address import resolve_uri

        try:
            places["tracking_uri"] = resolve_uri(spec.tracking_uri)
        except HpoError as error:
            raise error.under("tracking_uri") from None
    return spec.model_copy(update=places)


def _check_tracking(spec: StudySpec, mlruns: Path) -> None:
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
        folders.find(spec.name, folder.mlruns)  # raises, and says which studies there are
    stored = folders.read_spec(folder)
    changes: dict[str, Any] = {}
    for key in spec.model_fields_set - {"name", "space", "minimize", "maximize"}:
        before, value = getattr(stored, key), getattr(spec, key)
        if key in CHANGEABLE:
            changes[key] = _merged_budget(stored, spec) if key == "budget" else value
        elif key == "objective" and reference.absolute(value) == reference.absolute(before):
            continue
        elif value != before:
            raise _changed(spec.name, key, _told(before), _told(value))
    if (spec.minimize or spec.maximize) and _goal(spec) != _goal(stored):
        raise _changed(spec.name, "goal", _goal(stored), _goal(spec), path=(spec.direction,))
    return stored.model_copy(update=changes)


def _told(value: object) -> object:
    return without_password(value) if isinstance(value, str) else value


def _goal(spec: StudySpec) -> str:
    return f"{spec.direction} {spec.metric}"


def _changed(
    study: str, key: str, stored: object, value: object, path: tuple[str, ...] = ()
) -> HpoError:
    return HpoError(
        f"study {study} was started with {key} {stored!r}, not {value!r}",
        hint="a resumed study may change only budget, workers, pack, GPUs, memory, retries,"
        " silence, engine, ray and MLflow; choose another --name for anything else",
        code="changed-spec",
        found=value,
        path=path or (key,),
    )


def _refuse_other_space(spec: StudySpec, problem: Problem) -> None:
    """Raises HpoError if the given space is not the stored one. Start values may differ: they are
    where the study began, which may have been --start-from."""
    given, stored = problems.load(spec).space, problem.space
    for name in {**stored, **given}:
        known = {
            which: problems.describe(space[name]) if name in space else "nothing"
            for which, space in (("stored", stored), ("given", given))
        }
        same = name in given and name in stored and _ranges(given, name) == _ranges(stored, name)
        if not same:
            what, path = f"knob {name} in", ("space", name)
            raise _changed(spec.name, what, known["stored"], known["given"], path=path)


def _ranges(space: SearchSpace, name: str) -> dict[str, Any]:
    return {key: value for key, value in space[name].spec().items() if key != "start"}


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


def slots_text(spec: StudySpec) -> str:
    """`2 workers on cpu, up to 32 trials together`, `4 workers with 0.5 GPU each`, `engine ray on
    head:6379`."""
    packed = f", up to {spec.pack} trials together" if spec.pack > 1 else ""
    engine = engines.load(spec.engine)
    if engine.where is not None:
        count = f", {plural(spec.workers, 'worker')}" if spec.workers else ""
        gpus = f" with {spec.gpus_per_trial:g} GPU each" if spec.gpus_per_trial else ""
        return f"engine {spec.engine} on {engine.where(spec)}{count}{gpus}{packed}"
    wanted = slots(spec)
    if wanted.workers == 0:
        return f"in this process{packed}"
    share = wanted.gpus_per_trial
    where = f"with {share:g} GPU each" if share else "on cpu"
    return f"{plural(wanted.workers, 'worker')} {where}{packed}"


def slots(spec: StudySpec) -> Slots:
    """What the engine may use. Not said: one worker, and the GPUs there are shared out evenly."""
    from hpo.engines._devices import even_share, places, visible_gpus

    share, count = spec.gpus_per_trial, spec.workers
    gpus = len(visible_gpus()) if share != 0 else 0
    if count is None:
        count = max(1, places(gpus, share)) if share else 1
    if share is None:
        share = even_share(gpus, count)
    return Slots(count, share, spec.memory_per_trial)


def check_devices(spec: StudySpec) -> None:
    """Raises Unavailable if the GPUs asked for are not there, HpoError for workers or an address
    that an engine cannot have."""
    from hpo.engines._devices import check_share, environments

    engine = engines.load(spec.engine)
    if engine.where is not None:
        check_share(spec.gpus_per_trial or 0.0)
        if spec.workers == 0:
            raise HpoError(
                f"engine {spec.engine} has workers of its own; 0 means trials in this process",
                hint="give --workers 1 or more, or leave engine out",
                code="no-workers",
                path=("workers",),
            )
        engine.where(spec)
        return
    wanted = slots(spec)
    if wanted.workers:
        environments(wanted)


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


def described(folder: Folder) -> str:
    """A study in a few words: `2 trials, finished 2026-01-31 12:00`."""
    try:
        result = read(folder)
    except HpoError:
        return "unreadable"
    file = folder.journal if folder.journal.exists() else folder.spec
    when = datetime.datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    return f"{plural(result.ended, 'trial')}, {result.state} {when}"
