"""Where the cluster of a study is, and whether something listens there."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.spec import StudySpec


def address(spec: StudySpec) -> str | None:
    """What the study or the environment names; None: Ray is started on this machine.

    Raises HpoError for a Ray client, through which no study can be driven.
    """
    found = spec.ray.address or os.environ.get("RAY_ADDRESS") or None
    if found is not None and found.startswith("ray://"):
        raise HpoError(
            f"ray address {found}: a study cannot be driven through a Ray client",
            hint="run hpo on a machine of the cluster with --ray-address HOST:6379, or hand it over"
            " with  ray job submit -- hpo run ...",
            code="ray-address",
            path=("ray", "address"),
        )
    return found


def reach(found: str, within: float) -> None:
    """Raises OSError if nothing takes a connection at HOST:PORT within so many seconds."""
    host, _, port = found.rpartition("://")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=within).close()


def has_port(found: str) -> bool:
    """Whether an address names a place to be reached, and not, as `auto`, a way to find one."""
    host, _, port = found.rpartition("://")[2].rpartition(":")
    return bool(host) and port.isdecimal()
