"""Independent draws, each scale uniform: the honest baseline, and hard to beat in few trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.samplers._sampler import Request, Sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def propose(seed: int, request: Request) -> BaseSampler:
    from optuna.samplers import RandomSampler

    from hpo.samplers._dice import seeded

    return seeded(RandomSampler(), seed)


SAMPLER = Sampler(propose, summary="independent random points")
