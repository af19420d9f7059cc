"""SABA: SOBA with the noise of drawing rows taken out, on bilevel problems that are sums over rows.

Dagreou, Ablin, Vaiter and Moreau (NeurIPS 2022). It remembers three vectors as long as the
parameters for every `batch` rows. Do not use it on a network's training, which is no finite sum
under random draws, nor where the inner problem is badly conditioned.
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
    from hpo.bilevel.online.methods.saba import Saba

    return Saba(options.batch)


SAMPLER = online("SOBA without the noise of drawing rows (SABA)", Options, _method, stiff=None)
