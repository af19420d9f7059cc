"""AmIGO: hypergradients whose linear system is followed by a gradient step at every training step.

Arbel and Mairal (ICLR 2022). Smoother than `hypergrad`, at six to seven times the cost of training.
Do not use it for knobs that no loss has a derivative in: those are left to the sampler `propose`.
"""

from __future__ import annotations

from typing import Any

from hpo.samplers._online import OnlineOptions, online


def _method(options: Any) -> Any:
    from hpo.bilevel.online.methods.amigo import Amigo

    return Amigo()


SAMPLER = online(
    "hypergradients from a linear system followed step by step (AmIGO)", OnlineOptions, _method
)
