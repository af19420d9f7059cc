"""Bayesian optimization: a Gaussian process of the metric, the next point by expected improvement.

Matern 5/2 kernel with a length scale for each knob, log expected improvement (Ament et al., NeurIPS
2023). Few trials go far with it; each costs from tens of milliseconds to seconds of the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.samplers._options import option
from hpo.samplers._sampler import Request, Sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Options:
    """`startup_trials`: random trials before the model is used; `deterministic`: the metric of a
    point has no noise."""

    startup_trials: int = option(10, at_least=1)
    deterministic: bool = option(False)


def propose(seed: int, request: Request) -> BaseSampler:
    from optuna.samplers import GPSampler

    from hpo.samplers._dice import seeded
    from hpo.samplers._quiet import quiet

    options: Options = request.options
    with quiet():
        sampler = GPSampler(
            n_startup_trials=options.startup_trials,
            deterministic_objective=options.deterministic,
            warn_independent_sampling=False,
        )
    return seeded(sampler, seed)


def refuse(request: Request) -> str | None:
    for name, domain in request.coordinates.items():
        if domain.when:
            return (
                f"sampler gp cannot search {name}: it depends on {', '.join(domain.when)}, and a "
                "Gaussian process needs every knob at every point\nuse tpe, or drop its when:"
            )
    return None


SAMPLER = Sampler(
    propose,
    Options,
    refuse=refuse,
    most=64,
    summary="Bayesian optimization with a Gaussian process; for few, costly trials",
)
