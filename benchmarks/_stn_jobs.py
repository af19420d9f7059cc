"""Jobs on the cores of this machine, and results that an earlier run of the script has left."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from _stn_runs import Job, run

Case = TypeVar("Case")
Found = TypeVar("Found")

_SHARED = ("objectives/training", "objectives/data", "search_spaces", "hpo/samplers", "hpo/pruners")
_OWN = ("_stn_runs.py", "_stn_problems.py")


def spread_out(work: Callable[[Case], Found], cases: Sequence[Case], processes: int) -> list[Found]:
    """What `work` gives for every case, in their order; in this process if `processes` is 0."""
    found = dict(_finished(work, cases, processes))
    return [found[place] for place in range(len(cases))]


def _finished(
    work: Callable[[Case], Found], cases: Sequence[Case], processes: int
) -> Iterator[tuple[int, Found]]:
    """The place of each case and what came out, as they finish."""
    if processes == 0:
        yield from ((place, work(case)) for place, case in enumerate(cases))
        return
    # Forked processes would share the state of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(cases) or 1), mp_context=context) as pool:
        places = {pool.submit(work, case): place for place, case in enumerate(cases)}
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Store:
    """Runs, each done once: several parts of the benchmark look at the same ones.

    left: a folder with results of an earlier run of the script; they count where the job and all
    the code it goes through are the same.
    """

    def __init__(self, processes: int, left: Path | None) -> None:
        self._processes = processes
        self._done: dict[Job, dict[str, Any]] = {} if left is None else dict(_left(left))

    def results(
        self, jobs: Sequence[Job], keep: Callable[[], None] = lambda: None
    ) -> dict[Job, dict[str, Any]]:
        """The results of the jobs; `keep` is called whenever one has come in."""
        waiting = [job for job in dict.fromkeys(jobs) if job not in self._done]
        finished = _finished(run, waiting, self._processes)
        for count, (place, found) in enumerate(finished, start=1):
            job = waiting[place]
            self._done[job] = found
            print(f"{count}/{len(waiting)}  {_line(job, found)}", file=sys.stderr, flush=True)
            keep()
        return {job: self._done[job] for job in jobs}

    def record(self, jobs: Iterable[Job]) -> list[dict[str, Any]]:
        """What is known of the jobs so far, as plain data."""
        return [
            {"job": asdict(job), "code": _code(job.tunes), "result": self._done[job]}
            for job in dict.fromkeys(jobs)
            if job in self._done
        ]


def _line(job: Job, found: dict[str, Any]) -> str:
    name = f"{job.arm}, seed {job.seed}" + (f", from {job.start}" if job.arm != "replay" else "")
    return (
        f"{name:28} val {found['val']:.4f}  test {found['test']:.4f}  {found['cpu']:.1f} s CPU"
        f"  {found['trials']} trials"
    )


def _left(folder: Path) -> Iterator[tuple[Job, dict[str, Any]]]:
    for path in sorted(folder.glob("stn-*.json")):
        for record in json.loads(path.read_text())["runs"]:
            if "job" in record:
                job = Job(**record["job"])
                if record["code"] == _code(job.tunes):
                    yield job, record["result"]


@lru_cache(maxsize=2)
def _code(tunes: bool) -> str:
    """A fingerprint of the code that a run goes through."""
    spec = find_spec("hpo")
    assert spec is not None and spec.origin is not None
    root, here = Path(spec.origin).parent.parent, Path(__file__).parent
    folders = [*_SHARED, "hpo/bilevel"] if tunes else _SHARED
    files = [here / name for name in _OWN]
    files += [file for folder in folders for file in sorted((root / folder).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
