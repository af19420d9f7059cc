"""The Ray cluster a study runs on: found, or started on this machine, and what has room there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.engines._devices import cores, visible_gpus
from hpo.engines._ray.address import address as named
from hpo.engines._ray.address import has_port, reach
from hpo.engines._ray.environment import of_workers, use_token
from hpo.engines._ray.head import Abandoned, Head
from hpo.errors import HpoError, Unavailable
from hpo.spec import StudySpec
from hpo.wording import plural

STORE = 200 * 2**20  # bytes of a local object store: results are small
LOOK_AGAIN = 2.0
ANSWERS = 10.0  # seconds within which a head takes a connection
_BYTES = {"memory", "object_store_memory"}


@dataclass
class Cluster:
    """The nodes of a cluster and what one trial asks of them."""

    bundle: Mapping[str, float]
    alone: Mapping[str, float]
    workers: int | None
    head: Head
    _room: int = 0
    _looked: float = field(default=-LOOK_AGAIN)

    def room(self) -> int:
        """How many trials may run at once: as many as were asked for, else as many as fit."""
        if self.workers is not None:
            return self.workers
        now = time.monotonic()
        if now - self._looked > LOOK_AGAIN:
            self._looked, self._room = now, sum(_fit(n, self.bundle) for n in nodes())
        return self._room

    def has_place(self) -> bool:
        """Whether there is a node on which a trial finds room once others make it."""
        return any(_fit(node, self.bundle) for node in nodes())


@contextmanager
def connected(spec: StudySpec, log: Path) -> Iterator[Cluster]:
    """The cluster of a study: the one at its address, one this process is in already, or one that
    lives on this machine as long as the study is driven.

    Raises Unavailable if it does not answer, or if no trial can ever find room in it; HpoError if
    the one that this process is in is not what the study asks for.
    """
    import ray

    address = named(spec)
    ours = not ray.is_initialized()
    cpus = _cpus(spec, shared=not ours or address is not None)
    if ours:
        _start(spec, cpus, address, log)
    at = str(ray.get_runtime_context().gcs_address)
    if not ours:
        require_same(spec, at)
    with Head(at) as head:
        try:
            yield _cluster(spec, cpus, address, head)
        except Abandoned:
            assert head.gone is not None
            raise head.gone from None
        finally:
            if ours:
                ray.shutdown()


def require_same(spec: StudySpec, at: str) -> None:
    """Raises HpoError if the study asks for what the cluster at an address, which this process has
    joined already, cannot be or have any more."""
    asked = (spec.ray.address or "").rpartition(":")[2]
    if asked.isdecimal() and asked != at.rpartition(":")[2]:  # a host has several names
        raise HpoError(
            f"ray address {spec.ray.address}: this process is connected to {at} already",
            hint="call ray.shutdown() before, or leave the address out",
            code="ray-address",
            path=("ray", "address"),
        )
    if spec.ray.runtime_env:
        raise HpoError(
            "ray.runtime_env is fixed when Ray starts, and this process has started it already",
            hint="give it to ray.init(runtime_env=...), or call ray.shutdown() before",
            code="refused",
            path=("ray", "runtime_env"),
        )


def nodes() -> list[dict[str, float]]:
    """What each living node has in all."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _start(spec: StudySpec, cpus: float, address: str | None, log: Path) -> None:
    import ray

    own = {"num_cpus": cores(), "num_gpus": len(visible_gpus()), "object_store_memory": STORE}
    where = {"address": address} if address else {"address": "local", **own}
    if address:
        _require(address)
        use_token()
    variables = {**of_workers(cpus), **spec.ray.runtime_env.get("env_vars", {})}
    try:
        with log.open("a") as said, redirect_stderr(said):
            ray.init(
                **where,
                include_dashboard=None if address else False,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={**spec.ray.runtime_env, "env_vars": variables},
            )
    except Exception as error:  # connection, version, token, runtime environment: each its own
        raise _unavailable(error, address, log) from error


def _require(address: str) -> None:
    """Raises Unavailable if nothing listens at the address. Ray itself would try for minutes."""
    if not has_port(address):
        return
    try:
        reach(address, ANSWERS)
    except OSError as error:
        raise _unavailable(error, address) from error


def _unavailable(error: Exception, address: str | None, log: Path | None = None) -> Unavailable:
    said = getattr(error, "strerror", None) or str(error)
    told = (said.strip().splitlines() or [type(error).__name__])[0]
    return Unavailable(
        f"ray: {f'{address} does not answer' if address else 'it does not start'}: {told}",
        hint="is the cluster up (ray status), of the same versions, and this machine's token"
        " that of the cluster (~/.ray/auth_token)? Without an address Ray starts on this machine"
        if address
        else f"see {log}, or use --engine optuna",
        code="ray",
        path=("ray", "address") if address else (),
    )


def _cluster(spec: StudySpec, cpus: float, address: str | None, head: Head) -> Cluster:
    share = spec.gpus_per_trial
    has_gpus = any(node.get("GPU", 0) for node in nodes())
    gpus = (1.0 if has_gpus else 0.0) if share is None else share
    bundle = _bundle(spec, cpus, gpus)
    whole = {**bundle, "GPU": max(1.0, bundle["GPU"])} if bundle.get("GPU") else bundle
    # Ray looks for room only as long as a cluster can still grow, which only the user knows.
    if not sum(_fit(node, bundle) for node in nodes()) and (spec.workers is None or not address):
        told = ", ".join(f"{_amount(name, value)} {name}" for name, value in bundle.items())
        raise Unavailable(
            f"ray: no trial finds room: each asks for {told}; there is {_told(nodes())}",
            hint="ask for less (gpus_per_trial, ray.cpus_per_trial, memory_per_trial), or say how"
            " many --workers a cluster that grows should have",
            code="no-room",
            path=("gpus_per_trial",) if share else ("ray",),
        )
    return Cluster(bundle, whole, spec.workers, head)


def _cpus(spec: StudySpec, shared: bool) -> float:
    if spec.ray.cpus_per_trial is not None:
        return spec.ray.cpus_per_trial
    return 1.0 if shared or not spec.workers else max(1.0, float(cores() // spec.workers))


def _bundle(spec: StudySpec, cpus: float, gpus: float) -> dict[str, float]:
    asked: dict[str, float] = {"CPU": cpus, **spec.ray.resources}
    if gpus:
        asked["GPU"] = gpus
    if spec.memory_per_trial:
        asked["memory"] = float(spec.memory_per_trial)
    if spec.ray.accelerator_type:
        asked[f"accelerator_type:{spec.ray.accelerator_type}"] = 0.001
    return asked


def _fit(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How many trials find room on an empty node. A share of a GPU is a share of one of them."""
    room = float("inf")
    for name, asked in bundle.items():
        has = node.get(name, 0.0)
        fits = int(has) * int(1 / asked + 1e-9) if name == "GPU" and asked < 1 else has / asked
        room = min(room, fits + 1e-9)
    return int(room)


def _told(found: list[dict[str, float]]) -> str:
    each = [
        ", ".join(
            f"{_amount(name, value)} {name}"
            for name, value in sorted(node.items())
            if not name.startswith(("node:", "object_store"))
        )
        for node in found[:3]
    ]
    more = f", and {plural(len(found) - 3, 'node')} more" if len(found) > 3 else ""
    return "; ".join(f"a node with {one}" for one in each) + more


def _amount(name: str, value: float) -> Any:
    return f"{value / 2**30:.1f} GiB" if name in _BYTES else f"{value:g}"
