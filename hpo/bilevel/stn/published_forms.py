"""What the published codes of Self-Tuning Networks do by default, and what they cannot do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hpo.bilevel.stn.options import SelfTuningOptions
from search_spaces.domains import Choice, Domain
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer


@dataclass(frozen=True)
class PublishedForm:
    """What one of the codes does.

    own_scale: a learned factor on each layer's own output. factor_spread: standard deviation of the
    first map from knobs to scalars. two_passes: the weights are trained at the knobs' centre, the
    response in a pass of its own, linearised if so said. The rest are defaults: the optimizer of
    the knobs and its rate, training steps for each step of the knobs, the first perturbation, the
    share of the steps after the last step of the knobs.
    """

    own_scale: bool
    factor_spread: float
    two_passes: bool
    linearised: bool
    optimizer: Literal["adam", "rmsprop"]
    rate: float
    every: int
    scale: float
    settle: float = 0.0


STN_2019 = PublishedForm(True, 0.01, False, False, "adam", 3e-3, every=2, scale=0.5)
DELTA_STN_2020 = PublishedForm(False, 0.0, True, True, "rmsprop", 1e-2, every=5, scale=1.0)
FORMS = {"full": STN_2019, "delta": DELTA_STN_2020}

# Safeguards of the present method; the published codes have none of them.
_ABSENT = ("path", "least_scale", "most_scale", "trust", "freeze", "average", "restarts")


def as_published(options: SelfTuningOptions, form: PublishedForm) -> SelfTuningOptions:
    """The options with the defaults of a published code in place of the present ones."""
    default = SelfTuningOptions()
    for name in _ABSENT:
        if getattr(options, name) != getattr(default, name):
            raise HpoError(
                f"{name} has no meaning with response: {options.response}, which is as published",
                hint=f"leave out {name}, or use response: gains",
                code="bad-option",
                found=getattr(options, name),
                path=("sampler_options", name),
            )
    if form.two_passes and not options.centred:
        raise HpoError(
            "centred is false, but response: delta is centred by its nature",
            hint="leave out centred, or use response: full",
            code="bad-option",
            found=False,
            path=("sampler_options", "centred"),
        )
    present = {n: getattr(form, n) for n in ("every", "scale", "settle")}
    replaced = {n: v for n, v in present.items() if getattr(options, n) == getattr(default, n)}
    return dataclasses.replace(options, **replaced)


def require_tunable(name: str, domain: Domain, regularizers: Mapping[str, Regularizer]) -> None:
    """HpoError for a knob whose effect the published response cannot learn."""
    by_step = any(name in r.knobs and r.by_optimizer_alone for r in regularizers.values())
    if isinstance(domain, Choice):
        reason = "is a choice, and only numbers are tuned"
    elif by_step or name == "learning_rate":
        reason = "acts in the optimizer's step alone, and no weights answer to it"
    else:
        return
    raise HpoError(
        f"{name} {reason} by Self-Tuning Networks as published",
        hint=f"put {name} under fixed: (or use response: gains)",
        code="bad-knob",
        path=("space", name),
    )
