"""Population based training: bad members go on from a checkpoint of a good one, its knobs changed.

Jaderberg et al., Population Based Training of Neural Networks, 2017, as Ray Tune has it. Trials are
the members of the population, and all of them train at once, or in turns. What the best one
inherited is a schedule in steps. Do not use it with a handful of members: it then finds what
little the first points offer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hpo.samplers._options import option
from hpo.samplers._outer import outer
from hpo.samplers._population import Evolution, PopulationOptions, too_few
from hpo.samplers._sampler import Request, Sampler
from search_spaces.domains import Choice, Domain, Float, Int

if TYPE_CHECKING:
    from search_spaces.domains import Scalar

STEP = 0.1  # of the unit interval: how far a value moves that no factor moves


@dataclass(frozen=True)
class Options(PopulationOptions):
    __doc__ = f"""resample: how likely an inherited knob is drawn anew from its range; else it is
    multiplied by one of grow and shrink, and a choice moves on to the option before or after.
    {PopulationOptions.__doc__}"""

    resample: float = option(0.25, at_least=0, at_most=1)
    grow: float = option(1.2, above=1)
    shrink: float = option(0.8, above=0, at_most=1)


def hold(domain: Domain, value: Scalar) -> Any:
    """A number that factors make sense for: the odds on the scale logit, the place of an option."""
    if isinstance(domain, Choice):
        return int(domain.to_unit(value) * len(domain.options))
    assert isinstance(value, int | float)
    if isinstance(domain, Float) and domain.scale == "logit":
        value = min(max(value, domain.low), domain.high)
        return value / (1 - value)
    return float(value)


def give(domain: Domain, held: Any) -> Scalar:
    """The value of the domain that is held; outside its range, the nearest end. On the scale log+0
    what is below the smallest value is zero."""
    if isinstance(domain, Choice):
        return domain.options[int(held)]
    if isinstance(domain, Int):
        return int(min(max(round(held), domain.low), domain.high))
    if domain.scale == "logit":
        held = held / (1 + held)
    if domain.scale == "log+0" and held < domain.smallest:
        return 0.0
    return float(min(max(held, domain.smallest), domain.high))


def explored(domain: Domain, before: Any, made: Any) -> Any:
    """What an heir holds, within the range. A whole number moves by one at least, and zero, which
    no factor moves, by a tenth of the scale upwards: on log+0 to where that begins."""
    if isinstance(domain, Choice):
        return made
    if isinstance(domain, Int) and made != before:
        made = max(round(made), before + 1) if made > before else min(round(made), before - 1)
    elif made == before == 0:
        if isinstance(domain, Int):
            made = 1
        else:
            made = domain.from_unit(min(1.0, domain.to_unit(0.0) + STEP))
    return hold(domain, give(domain, made))


def evolve(request: Request, steps: int) -> Evolution:
    """The scheduler of a population that trains so many steps."""
    from ray.tune.schedulers import PopulationBasedTraining

    options: Options = request.options
    knobs = {name: _mutation(domain) for name, domain in request.coordinates.items()}
    settings = {
        **options.settings(steps),
        "hyperparam_mutations": {"knobs": knobs},
        "resample_probability": options.resample,
        "perturbation_factors": (options.grow, options.shrink),
    }
    return Evolution(PopulationBasedTraining, settings, hold, give, explored)


def _mutation(domain: Domain) -> list[int] | Callable[[], Any]:
    """What Ray draws from anew; from a list it moves on to a neighbour otherwise."""
    if isinstance(domain, Choice):
        return list(range(len(domain.options)))
    return partial(_drawn, domain)


def _drawn(domain: Domain) -> Any:
    return hold(domain, domain.from_unit(random.random()))


SAMPLER = Sampler(
    outer,
    Options,
    evolve=evolve,
    refuse=too_few,
    summary="a population that inherits and changes its knobs while it trains (PBT; engine ray)",
)
