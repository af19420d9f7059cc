"""Trials on a Ray cluster, or on this machine through Ray: actors of Ray Tune, one trial each.

The study stays in this process, the only one that writes its ledger and talks to MLflow; workers
are given a plan and answer with measurements. What Ray keeps of a run is thrown away.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.engines import Engine, Slots
from hpo.engines._silence import Silence
from hpo.interrupts import Interrupts

if TYPE_CHECKING:
    from hpo.engines._ray.cluster import Cluster
    from hpo.engines._ray.driving import Drive
    from hpo.spec import StudySpec
    from hpo.study import Study

KEPT = 4  # checkpoints of a trial that Ray keeps: an heir may still be on its way to an older one


def run(study: Study, slots: Slots) -> None:
    """Drains trials until the study is done, as many at once as the cluster has room for.

    An interrupt stops asking and waits up to 30 s for running trials; a second one, or the end of
    the wait, leaves them open in the ledger. Then KeyboardInterrupt is raised.
    """
    from hpo.engines._ray.environment import quiet

    log = study.folder.path / "engine.log"
    try:
        with quiet(log):
            from hpo.engines._ray.cluster import connected

            # Ray takes SIGTERM for itself when it starts: only then are interrupts counted.
            with connected(study.spec, log) as cluster, Interrupts() as interrupts:
                drive = _drive(study, cluster, interrupts)
                try:
                    _fit(drive)
                finally:
                    shutil.rmtree(_experiments(study), ignore_errors=True)
                drive.close()
                interrupts.check()
    finally:
        _tidy_logs(study)


def where(spec: StudySpec) -> str:
    """The address of the cluster, or this machine. Raises HpoError for one that cannot be used."""
    from hpo.engines._ray.address import address

    return address(spec) or "this machine"


ENGINE = Engine(
    run,
    "a Ray cluster, or Ray on this machine (--ray-address)",
    where=where,
    schedules=True,
    needs="ray",
)


def _drive(study: Study, cluster: Cluster, interrupts: Interrupts) -> Drive:
    from hpo.engines._ray.driving import Drive
    from hpo.engines._ray.packs import PackDrive
    from hpo.engines._ray.population import Population
    from hpo.scheduling import scheduling

    found, silence = scheduling(study.problem), Silence(study.spec.silence)
    population = None
    if found is not None and found.evolution is not None:
        population = Population(study.problem, found.evolution)
    kind = PackDrive if study.spec.pack > 1 else Drive
    return kind(study, cluster, interrupts, silence, found, population)


def _fit(drive: Drive) -> None:
    from ray import tune

    from hpo.engines._ray.deciding import Members, scheduler
    from hpo.engines._ray.packs import PackedTrials
    from hpo.engines._ray.trainable import StudyTrial
    from hpo.engines._ray.tune import AskAndTell, Listen, StopWithStudy

    study = drive.study
    tuner = tune.Tuner(
        PackedTrials if study.spec.pack > 1 else StudyTrial,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=Members(drive) if drive.population else AskAndTell(drive),
            scheduler=scheduler(drive),
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{study.spec.name}-{uuid.uuid4().hex[:8]}",  # nobody else's, to be removed
            storage_path=study.spec.ray.storage or str(_experiments(study)),
            callbacks=[Listen(drive)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT, checkpoint_at_end=False),
            stop=StopWithStudy(drive),
            verbose=0,
        ),
    )
    found = tuner.fit()
    if study.spec.ray.storage:
        with suppress(OSError):
            found.filesystem.delete_dir(found.experiment_path)


def _experiments(study: Study) -> Path:
    """Where Ray keeps what it notes of a run."""
    return study.folder.path.absolute() / "ray"


def _tidy_logs(study: Study) -> None:
    """Removes the logs of Ray and of workers that had nothing to say."""
    folder = study.folder.path
    for log in (folder / "engine.log", *folder.glob("worker-*.log")):
        if log.exists() and not log.stat().st_size:
            log.unlink()
