"""The programs that are compared. Each runs in a fresh process, which reports on itself.

python _programs.py REPORT raw SAMPLER STORAGE TRIALS      a plain Optuna script
python _programs.py REPORT hpo ARGUMENTS                   the command hpo
python _programs.py REPORT memory ARGUMENTS                the command over Optuna's memory
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

HEAVY = ("torch", "ray", "mlflow", "pandas", "optuna", "numpy")


def raw(sampler_name: str, storage_name: str, trials: int) -> None:
    """What one writes without any tool but Optuna."""
    import optuna
    from _trivial import KNOBS
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    storage = (
        InMemoryStorage()
        if storage_name == "memory"
        else JournalStorage(JournalFileBackend("raw.log"))
    )
    study = optuna.create_study(
        study_name="raw", storage=storage, sampler=kinds[sampler_name](seed=0)
    )

    def objective(trial: optuna.Trial) -> float:
        return sum(trial.suggest_float(knob, -1, 1) ** 2 for knob in KNOBS)

    study.optimize(objective, n_trials=trials)


def memory(arguments: list[str]) -> None:
    """The command hpo with Optuna's storage in memory where its journal would be."""
    import optuna

    from hpo.cli import main as command

    ledger = optuna.storages.InMemoryStorage()
    optuna.storages.JournalStorage = lambda backend: ledger  # type: ignore
    command(arguments)


def main() -> None:
    report, program, *arguments = sys.argv[1:]
    try:
        if program == "raw":
            raw(arguments[0], arguments[1], int(arguments[2]))
        elif program == "memory":
            memory(arguments)
        else:
            from hpo.cli import main as command

            command(arguments)
    finally:
        loaded = [name for name in HEAVY if name in sys.modules]
        Path(report).write_text(json.dumps({"peak_mib": _peak(), "loaded": loaded}))


def _peak() -> float:
    """The most memory this process has held, in MiB; not that of its parent or its children."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
