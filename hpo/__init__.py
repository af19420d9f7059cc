"""Finds regularization, as a schedule over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo._version import __version__

if TYPE_CHECKING:
    from hpo.api import objective, run, trainable
    from hpo.bilevel.implicit.hypergradient import hypergradient
    from hpo.result import Best, Result, open_study
    from hpo.samplers import optuna_sampler
    from hpo.selftune import self_tune
    from search_spaces.errors import HpoError
    from search_spaces.schedule import Schedule

__all__ = [
    "Best",
    "HpoError",
    "Result",
    "Schedule",
    "__version__",
    "hypergradient",
    "objective",
    "open_study",
    "optuna_sampler",
    "run",
    "self_tune",
    "trainable",
]

_HOMES = {
    "Best": "hpo.result",
    "HpoError": "search_spaces.errors",
    "Result": "hpo.result",
    "Schedule": "search_spaces.schedule",
    "hypergradient": "hpo.bilevel.implicit.hypergradient",
    "objective": "hpo.api",
    "open_study": "hpo.result",
    "optuna_sampler": "hpo.samplers",
    "run": "hpo.api",
    "self_tune": "hpo.selftune",
    "trainable": "hpo.api",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: `import hpo` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module hpo has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
