"""A Ray cluster of several nodes on this machine: tests add nodes to it and take them away."""

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rays import QUIET, STORE
from studies import children

from hpo.engines._ray.environment import of_workers


class Nodes:
    """The nodes of a cluster; its head runs no trials."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._added: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, cpus: float = 1, gpus: int = 0, **resources: float) -> Any:
        """A node of these resources."""
        node = self._cluster.add_node(
            num_cpus=cpus, num_gpus=gpus, resources=resources, object_store_memory=STORE
        )
        self._added.append(node)
        return node

    def kill(self, node: Any) -> None:
        """The node dies without a word, its raylet and its workers at once."""
        workers = children(_raylet(node))
        for pid in [_raylet(node), *workers]:
            os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        self._added.remove(node)

    def behead(self) -> None:
        """The head dies without a word."""
        for processes in self._cluster.head_node.all_processes.values():
            for one in processes:
                with suppress(ProcessLookupError):
                    os.kill(one.process.pid, signal.SIGKILL)

    def of(self, pid: int) -> Any:
        """The node a worker is on."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        (found,) = [node for node in self._added if _raylet(node) == int(fields[1])]
        return found

    def have(self, count: int) -> None:
        """Brings the nodes to so many, each with two processors; the first has two GPUs."""
        for node in self._added[count:]:
            self.kill(node)
        while len(self._added) < count:
            gpus = any(node.get_resource_and_label_spec().num_gpus for node in self._added)
            self.add(cpus=2, gpus=0 if gpus else 2)


@contextmanager
def cluster_running() -> Iterator[Nodes]:
    """A cluster with a head alone, as long as the block runs."""
    with patch.dict(os.environ, QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "num_gpus": 0,
                "object_store_memory": STORE,
                "include_dashboard": False,
            },
        )
        try:
            yield Nodes(cluster)
        finally:
            cluster.shutdown()


@contextmanager
def joined(nodes: Nodes) -> Iterator[None]:
    """This process is in the cluster, so that no study has to join it anew."""
    with patch.dict(os.environ, QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(
            address=nodes.address,
            log_to_driver=False,
            runtime_env={"env_vars": dict(of_workers(1))},
        )
        try:
            yield
        finally:
            ray.shutdown()


def below(pid: int) -> list[int]:
    """All processes that a process has started, and that those have."""
    found = children(pid)
    return found + [deeper for child in found for deeper in below(child)]


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
