"""A low-discrepancy sequence: points that cover the space more evenly than random ones.

Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13 (2012). The sequence is
scrambled by the study's seed, because its first point is a corner of the space otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpo.samplers._options import option
from hpo.samplers._sampler import Request, Sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Options:
    """`kind`: the sequence; `scramble`: shuffle it by the seed."""

    kind: Literal["sobol", "halton"] = option("sobol")
    scramble: bool = option(True)


def propose(seed: int, request: Request) -> BaseSampler:
    from optuna.samplers import QMCSampler, RandomSampler

    from hpo.samplers._dice import seeded
    from hpo.samplers._quiet import quiet

    options: Options = request.options
    with quiet():
        return QMCSampler(
            qmc_type=options.kind,
            scramble=options.scramble,
            seed=seed,
            independent_sampler=seeded(RandomSampler(), seed),
            warn_independent_sampling=False,
        )


def joint(request: Request) -> list[str]:
    """All coordinates: the ones that are not active at a point are part of the sequence too."""
    return list(request.coordinates)


SAMPLER = Sampler(
    propose,
    Options,
    one_sequence=True,
    joint=joint,
    summary="a low-discrepancy sequence (Sobol, Halton) over the space",
)
