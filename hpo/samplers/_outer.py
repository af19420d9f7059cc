"""What a sampler that tunes within a run is between runs: the one that its `propose` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo import samplers
from hpo.samplers._sampler import Request

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def outer(seed: int, request: Request) -> BaseSampler:
    """The sampler that is named, with its defaults."""
    found = samplers.load(request.options.propose)
    options = samplers.parse_options(found, {}, request.options.propose)
    return found.propose(seed, Request(request.coordinates, options, request.trials))
