"""Population based bandits: PBT in which a Gaussian process says how inherited knobs change.

Parker-Holder, Nguyen and Roberts, Provably Efficient Online Hyperparameter Optimization with
Population-Based Bandits, NeurIPS 2020, as Ray Tune has it. Better than PBT where members are few
(four, say). It models real numbers; choices and whole numbers stay as `propose` has chosen them,
and are inherited as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.samplers import pbt
from hpo.samplers._outer import outer
from hpo.samplers._population import Evolution, PopulationOptions, too_few
from hpo.samplers._sampler import Request, Sampler
from search_spaces.domains import Domain, Float, Int

if TYPE_CHECKING:
    from search_spaces.domains import Scalar
    from search_spaces.regularizer import Regularizer


@dataclass(frozen=True)
class Options(PopulationOptions):
    __doc__ = PopulationOptions.__doc__


def hold(domain: Domain, value: Scalar) -> Any:
    """The place in the unit interval, so that the model sees each knob on its own scale."""
    if isinstance(domain, Float):
        assert isinstance(value, int | float)
        return domain.to_unit(value)
    return pbt.hold(domain, value)


def give(domain: Domain, held: Any) -> Scalar:
    """The value at this place; see PBT for whole numbers and options."""
    if isinstance(domain, Float):
        return domain.from_unit(float(held))
    return pbt.give(domain, held)


def explored(domain: Domain, before: Any, made: Any) -> Any:
    """What the model chose, within the unit interval; the others are not modelled."""
    return min(max(float(made), 0.0), 1.0) if isinstance(domain, Float) else before


def evolve(request: Request, steps: int) -> Evolution:
    """The scheduler of a population that trains so many steps."""
    from ray.tune.schedulers.pb2 import PB2

    options: Options = request.options
    bounds = {n: [0.0, 1.0] for n, d in request.coordinates.items() if isinstance(d, Float)}
    settings = {
        **options.settings(steps),
        "hyperparam_bounds": {"knobs": bounds},
    }
    return Evolution(PB2, settings, hold, give, explored)


def refuse(request: Request) -> str | None:
    """It needs real numbers to model, where the space is known."""
    if request.coordinates and not any(isinstance(d, Float) for d in request.coordinates.values()):
        names = ", ".join(request.coordinates)
        return (
            f"sampler pb2 models real numbers, and none of {names} has any\n"
            "use sampler pbt, which also moves choices and whole numbers"
        )
    return too_few(request)


def stiff(regularizer: Regularizer | None, domain: Domain) -> str:
    """Why a knob stays where a member of the population began: only real numbers are modelled."""
    if isinstance(domain, Float):
        return ""
    return f"is a {'whole number' if isinstance(domain, Int) else 'choice'} and stays as it began"


SAMPLER = Sampler(
    outer,
    Options,
    evolve=evolve,
    stiff=stiff,
    refuse=refuse,
    summary="PBT whose changes a Gaussian process chooses, for real numbers (PB2; engine ray)",
)
