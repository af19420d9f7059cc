"""Opens a study's ledger: for driving, created if new and locked, or for reading only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import optuna

from hpo import ledger, linting, patience
from hpo import storage as storages
from hpo.errors import Conflict, HpoError
from hpo.folder import Folder, refuse_existing, write_spec
from hpo.journal import Journal, ReadOnlyJournal
from hpo.ledger import TrialRecord
from hpo.lock import Guard, KeptLease, lock
from hpo.masking import without_password
from hpo.problem import Problem
from hpo.samplers._suggest import to_param
from hpo.study import Study

if TYPE_CHECKING:
    from hpo.spec import StudySpec
    from search_spaces.space import SearchSpace


def open_for_driving(
    problem: Problem, folder: Folder, resume: bool = False, warn: Callable[[str], None] = print
) -> Study:
    """The study in `folder`, created if it is new, locked for this process, its spec stored.

    `warn` is told when a ledger in a database cannot be reached and the study waits for it.
    Raises Conflict if another process drives it or, without `resume`, if the name is taken;
    HpoError if its ledger cannot be read or written.
    """
    spec = problem.spec
    guards: list[Guard] = [lock(folder.path, spec.name)]
    remote: patience.Patient | None = None
    try:
        if not resume:  # another process may have been quicker
            refuse_existing(folder, "it has just been started")
        folder.stop_request.unlink(missing_ok=True)  # meant for a driver that is gone
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = Journal(folder.journal) if spec.storage is None else None
        begun = resume and folder.spool.exists() and folder.spool.stat().st_size > 0
        storage: Any
        if journal is not None:
            storage = _replayed(journal, folder)
        else:
            waiting = patience.Waiting(patience.PATIENCE, warn, folder.stop_request.exists)
            storage = remote = storages.remote(str(spec.storage), must_exist=begun, waiting=waiting)
            guards.append(remote)
        study = _known(storage, spec.name)
        where = spec.storage or str(folder.journal)
        if study is not None and not resume:
            raise _taken(spec.name, where)
        if study is None and begun and journal is None:  # a journal may have been cut by a crash
            raise _lost(spec.name, where)
        if study is not None and remote is not None:
            guards.append(_leased(remote, spec.name))
        if not resume:
            linting.keep(problem, folder)
        write_spec(folder, spec)
        if study is None:
            study = _created(storage, spec)
            if remote is not None:
                guards.append(_leased(remote, spec.name))
        if not study.get_trials(deepcopy=False):
            _enqueue_start(study, problem)
        return Study(problem, folder, study, journal, guards)
    except BaseException:
        for guard in reversed(guards):
            guard.release()
        raise


def read_records(
    folder: Folder, storage: str | None, name: str, space: SearchSpace
) -> list[TrialRecord]:
    """The trials of a study another process may be driving; writes nothing."""
    if storage is None:
        if not folder.journal.exists():
            return []
    else:
        with closing(storages.remote(storage, must_exist=True)) as backend:
            return _records(backend, name, space)
    return _records(_replayed(ReadOnlyJournal(folder.journal), folder), name, space)


def _records(storage: Any, name: str, space: SearchSpace) -> list[TrialRecord]:
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return []
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return [ledger.record(trial, space) for trial in trials]


def _leased(storage: patience.Patient, name: str) -> KeptLease:
    """The lease, on connections of its own. It is looked at before anything is written again after
    the database was away: meanwhile it may have run out and gone to another driver."""
    study = storage.patiently(optuna.Study, name, storage.impatient)
    lease: KeptLease = storage.patiently(KeptLease, study, name)
    storage.returns = lease.check
    return lease


def _replayed(journal: Journal | ReadOnlyJournal, folder: Folder) -> Any:
    """Optuna's storage over a journal. Raises HpoError if a line says what none of ours says."""
    try:
        return optuna.storages.JournalStorage(journal)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise HpoError(
            f"{folder.journal}: a line of the ledger makes no sense ({type(error).__name__})",
            hint="restore the file from a copy",
            code="damaged-ledger",
        ) from error


def _known(storage: Any, name: str) -> optuna.Study | None:
    try:
        return optuna.load_study(study_name=name, storage=storage, pruner=_NO_PRUNER)
    except KeyError:
        return None


def _created(storage: Any, spec: StudySpec) -> optuna.Study:
    try:
        return optuna.create_study(
            study_name=spec.name, storage=storage, direction=spec.direction, pruner=_NO_PRUNER
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise _taken(spec.name, spec.storage or "its ledger") from None


def _taken(name: str, where: str) -> Conflict:
    return Conflict(
        f"study {name} exists in {without_password(where)}",
        hint="choose another --name, or resume it where its folder is",
        code="exists",
    )


def _lost(name: str, where: str) -> HpoError:
    return HpoError(
        f"study {name} has begun, but its trials are not in {without_password(where)}",
        hint="put the ledger back, or begin another study with --name",
        code="lost-ledger",
    )


_NO_PRUNER = optuna.pruners.NopPruner()


def _enqueue_start(study: optuna.Study, problem: Problem) -> None:
    """Trial 0 runs the start values, so that every result is told against them."""
    domains = problem.space.coordinates()
    start = problem.space.start_coordinates()
    study.enqueue_trial({name: to_param(domains[name], value) for name, value in start.items()})
