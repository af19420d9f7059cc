"""F2SA: hypergradients from first derivatives alone, by a second set of parameters trained beside.

Kwon, Kwon, Wright and Nowak (ICML 2023). For models with operations that cannot be differentiated
twice. Do not use it where they can: it costs four times a training, and is less exact. Weight
decay is no part of a loss and is left to the sampler `propose`, as are dropout and choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpo.samplers._online import OnlineOptions, in_loss, online
from hpo.samplers._options import option


@dataclass(frozen=True)
class Options(OnlineOptions):
    __doc__ = f"""penalty: how much less the outer loss weighs than the inner one in the training of
    the second set: the error falls with it, and the noise grows. leak: the share by which that set
    is drawn back at each step.
    {OnlineOptions.__doc__}"""

    penalty: float = option(10.0, above=0)
    leak: float = option(0.02, at_least=0, at_most=1)


def _method(options: Any) -> Any:
    from hpo.bilevel.online.methods.f2sa import F2sa

    return F2sa(options.penalty, options.leak)


SAMPLER = online(
    "hypergradients from first derivatives alone (F2SA)", Options, _method, in_loss, twice=False
)
