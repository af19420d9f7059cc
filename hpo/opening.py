"""Opens a study's ledger: for driving, created if new and locked, or for reading only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import optuna

from hpo import ledger
from hpo.errors import Conflict, HpoError
from hpo.folder import Folder, write_spec
from hpo.journal import Journal, ReadOnlyJournal
from hpo.ledger import TrialRecord
from hpo.lock import DriverLock, Lease, lock
from hpo.problem import Problem
from hpo.samplers._suggest import to_param
from hpo.study import Study

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace


def open_for_driving(problem: Problem, folder: Folder, resume: bool = False) -> Study:
    """The study in `folder`, created if it is new, locked for this process, its spec stored.

    Raises Conflict if another process drives it, HpoError if its ledger cannot be read or written.
    """
    spec = problem.spec
    guard: DriverLock | Lease = lock(folder.path, spec.name)
    try:
        write_spec(folder, spec.plain())
        if spec.storage is None:
            journal = Journal(folder.journal)
            storage: Any = optuna.storages.JournalStorage(journal)
        else:
            journal = None
            storage = remote_storage(spec.storage)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        optuna_study, is_new = _load(storage, spec.name, spec.direction)
        if journal is None:
            guard.release()
            guard = Lease(optuna_study, spec.name)
        if not is_new and not resume and spec.storage is not None:
            raise Conflict(
                f"study {spec.name} exists in {_without_password(spec.storage)}",
                hint="choose another --name, or resume it where its folder is",
                code="exists",
            )
        if is_new:
            _enqueue_start(optuna_study, problem)
        return Study(problem, folder, optuna_study, journal, guard)
    except BaseException:
        guard.release()
        raise


def remote_storage(url: str) -> Any:
    """Optuna's storage at a database URL. Raises HpoError naming what is wrong with it."""
    try:
        return optuna.storages.RDBStorage(url)
    except ImportError as error:
        raise HpoError(
            f"storage {_without_password(url)}: {error}",
            hint="install the database's driver, for example psycopg2-binary or pymysql",
            code="storage",
            path=("storage",),
        ) from None
    except Exception as error:
        raise HpoError(
            f"storage {_without_password(url)}: {str(error).splitlines()[0]}",
            hint="a URL such as postgresql://user@host/database or sqlite:////path/file.db",
            code="storage",
            path=("storage",),
        ) from None


def read_records(
    folder: Folder, storage: str | None, name: str, space: SearchSpace
) -> list[TrialRecord]:
    """The trials of a study another process may be driving; writes nothing."""
    if storage is None:
        if not folder.journal.exists():
            return []
        backend: Any = optuna.storages.JournalStorage(ReadOnlyJournal(folder.journal))
    else:
        backend = remote_storage(storage)
    try:
        study_id = backend.get_study_id_from_name(name)
    except KeyError:
        return []
    trials = backend.get_all_trials(study_id, deepcopy=False)
    return [ledger.record(trial, space) for trial in trials]


def _load(
    storage: Any, name: str, direction: Literal["minimize", "maximize"]
) -> tuple[optuna.Study, bool]:
    try:
        return optuna.load_study(study_name=name, storage=storage, pruner=_NO_PRUNER), False
    except KeyError:
        study = optuna.create_study(
            study_name=name, storage=storage, direction=direction, pruner=_NO_PRUNER
        )
        return study, True


_NO_PRUNER = optuna.pruners.NopPruner()


def _enqueue_start(study: optuna.Study, problem: Problem) -> None:
    """Trial 0 runs the start values, so that every result is told against them."""
    domains = problem.space.coordinates()
    start = problem.space.start_coordinates()
    study.enqueue_trial({name: to_param(domains[name], value) for name, value in start.items()})


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
