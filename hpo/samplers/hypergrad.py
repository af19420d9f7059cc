"""Hypergradients in a run: every few training steps the linear system behind the hypergradient is
solved a little further, and the knobs take a step.

Lorraine, Vicol and Duvenaud (AISTATS 2020); Luketina et al. (ICML 2016); Hataya and Yamada
(AISTATS 2023). Do not use it for knobs that no loss has a derivative in (dropout, the learning
rate): those are left to the sampler `propose`; nor where a trial is a few hundred steps short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hpo.samplers._online import OnlineOptions, online
from hpo.samplers._options import option


@dataclass(frozen=True)
class Options(OnlineOptions):
    __doc__ = f"""inverse: how the linear system is solved: conjugate gradients, a Neumann series, a
    low-rank sketch, or not at all. products: Hessian products for each step of the knobs; the rank
    of the sketch, which must be that of the Hessian. curvature: of a network; its Hessian may be
    indefinite, where the Gauss-Newton matrix is not.
    {OnlineOptions.__doc__}"""

    inverse: Literal["cg", "neumann", "nystrom", "identity"] = "cg"
    products: int = option(5, at_least=1)
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"


def _method(options: Any) -> Any:
    from hpo.bilevel.online.methods.hypergrad import Hypergrad

    return Hypergrad(options.inverse, options.products)


SAMPLER = online("follows hypergradients while a run trains", Options, _method)
