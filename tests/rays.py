"""Ray clusters for tests: on this machine, without a dashboard, with as many GPUs as one likes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from hpo.engines._ray.environment import of_workers

QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
STORE = 80 * 2**20


@contextmanager
def ray_running(**resources: Any) -> Iterator[None]:
    """Ray with these resources (num_cpus, num_gpus) as long as the block runs."""
    with patch.dict(os.environ, QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=STORE,
            log_to_driver=False,
            runtime_env={"env_vars": dict(of_workers(1))},
            **resources,
        )
        try:
            yield
        finally:
            ray.shutdown()
