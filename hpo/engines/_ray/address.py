"""Where the cluster of a study is."""

from __future__ import annotations

import os
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
