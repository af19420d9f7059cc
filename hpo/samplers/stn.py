"""Self-Tuning Networks: one training run learns how the best weights answer to the knobs, and
follows the validation loss through that answer.

MacKay, Vicol, Lorraine, Duvenaud and Grosse, Self-Tuning Networks, ICLR 2019; Bae and Grosse,
Delta-STN, NeurIPS 2020. The network itself is untouched: gates on its layers carry the answer.
Do not use it for what has no best response, such as the learning rate or the width (those are left
to the sampler `propose`), nor where a trial is too short for the knobs to travel: a few hundred
steps are the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.samplers._outer import outer
from hpo.samplers._sampler import InRunOptions, Sampler, Start

if TYPE_CHECKING:
    from objectives.training.tuner import Tuner
    from search_spaces.domains import Domain
    from search_spaces.regularizer import Regularizer


@dataclass(frozen=True)
class Options(SelfTuningOptions, InRunOptions):
    __doc__ = f"{SelfTuningOptions.__doc__}\n{InRunOptions.__doc__}"


def tune(start: Start, options: Any) -> Tuner:
    if options.response != "gains":
        from hpo.bilevel.stn.published import Published

        return Published(start.tunable, start.regularizers, start.point, options)
    from hpo.bilevel.stn.selftuning import SelfTuning

    return SelfTuning(start.tunable, start.regularizers, start.point, options)


def stiff(regularizer: Regularizer | None, domain: Domain) -> str:
    """Why a knob cannot be tuned: the gates on the layers give one derivative, not a second."""
    once = regularizer is not None and regularizer.once
    return "takes derivatives of the network itself, through which none go on" if once else ""


SAMPLER = Sampler(
    outer,
    Options,
    tune=tune,
    stiff=stiff,
    summary="tunes knobs while a run trains (Self-Tuning Networks)",
)
