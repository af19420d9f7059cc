"""Which GPU, and how many threads, each worker sees: decided before torch is imported there."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from hpo.engines import Slots
from hpo.errors import Unavailable

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Of glibc; others do not know them. 32 MiB is the most that it takes for the first.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def visible_gpus() -> list[str]:
    """The GPUs this process may use, by the names CUDA_VISIBLE_DEVICES takes."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [part.strip() for part in listed.split(",") if part.strip() not in {"", "-1"}]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(listing.stdout.splitlines()) if line.startswith("GPU")]


def environments(slots: Slots) -> list[dict[str, str]]:
    """Environment variables for each slot: its GPUs, and threads so that workers share the cores.

    A fraction packs several slots on one GPU; a worker without a GPU sees none. Raises Unavailable
    if the slots ask for more GPUs than there are.
    """
    gpus = _assigned(slots.workers, slots.gpus_per_trial, visible_gpus())
    threads = str(max(1, cores() // slots.workers))
    return [{"CUDA_VISIBLE_DEVICES": devices, **training_variables(threads)} for devices in gpus]


def places(gpus: int, share: float) -> int:
    """How many workers find room when each gets this share of a GPU, or so many whole ones."""
    return gpus * int(1 / share + 1e-9) if share < 1 else gpus // int(share)


def even_share(gpus: int, workers: int) -> float:
    """The share of a GPU each of `workers` gets when all share what there is; 0 without any."""
    if not gpus or not workers:
        return 0.0
    return 1.0 if workers <= gpus else 1 / math.ceil(workers / gpus)


def cores() -> int:
    """The processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def training_variables(threads: str) -> Mapping[str, str]:
    """What makes training on a processor quick; a variable that is set already stays as it is.

    Threads wait awake only briefly: on busy cores spinning cost five times the CPU, and sleeping
    at once made small models twice as slow. Memory that a step frees is kept for the next one:
    given back to the system, its pages are cleared anew at each step, which made convolutions up
    to twice as slow.
    """
    defaults = {**dict.fromkeys(_THREADS, threads), "GOMP_SPINCOUNT": "20000", **_KEPT_MEMORY}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def check_share(share: float) -> None:
    """Raises Unavailable for more than one GPU, but not a whole number of them."""
    if share > 1 and share != int(share):
        raise Unavailable(
            f"gpus_per_trial {share:g}: more than one GPU comes in whole numbers",
            hint="use 0.5, 1, 2, …",
            code="gpus",
            path=("gpus_per_trial",),
        )


def _assigned(workers: int, share: float, gpus: Sequence[str]) -> list[str]:
    if share == 0:
        return [""] * workers
    if share >= 1:
        check_share(share)
        each = int(share)
        groups = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
        packed = groups
    else:
        per_gpu = int(1 / share + 1e-9)
        packed = [gpu for gpu in gpus for _ in range(per_gpu)]
    if len(packed) < workers:
        raise Unavailable(
            f"{workers} workers with {share:g} GPU each need more than the "
            f"{len(gpus)} GPU{'' if len(gpus) == 1 else 's'} here",
            hint=f"at most --workers {len(packed)} with this share"
            if packed
            else "leave --gpus-per-trial out to train on the processor",
            code="gpus",
            path=("gpus_per_trial",),
        )
    return packed[:workers]
