"""Optuna's notes about experimental and outgoing arguments, kept from users who did not ask."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Optuna's experimental and deprecation notes inside the block, nothing else."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", r".*has been deprecated", FutureWarning)
        yield
