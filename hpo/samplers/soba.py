"""SOBA: parameters, linear system and knobs take one step at a time, all together.

Dagreou, Ablin, Vaiter and Moreau (NeurIPS 2022). Do not use it for knobs that no loss has a
derivative in (those are left to the sampler `propose`), nor on a bilevel problem that is badly
conditioned: its parameters are then far from their optimum when the steps end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpo.samplers._online import OnlineOptions, online
from hpo.samplers._options import option


@dataclass(frozen=True)
class Options(OnlineOptions):
    __doc__ = f"{OnlineOptions.__doc__}"

    iterations: int = option(5000, at_least=20)


def _method(options: Any) -> Any:
    from hpo.bilevel.online.methods.soba import Soba

    return Soba()


SAMPLER = online("parameters and knobs step together (SOBA)", Options, _method)
