"""What the samplers share that train a population and change its knobs on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.samplers._options import option
from hpo.samplers._sampler import Request

if TYPE_CHECKING:
    from search_spaces.domains import Domain, Scalar

LEAST = 2  # members: one has nobody to learn from


@dataclass(frozen=True)
class PopulationOptions:
    """What every population has.

    interval: the share of the training after which a member is compared with the others, first and
    then again and again. quantile: the share of the worst members, each of which goes on from the
    checkpoint of one of the best. together: whether members are compared when all have come to the
    same step, so that the seed decides everything; if not, each when it gets there, and none waits.
    propose: the sampler that chooses where members begin, after the first one.
    """

    interval: float = option(0.1, above=0, at_most=0.5)
    quantile: float = option(0.25, above=0, at_most=0.5)
    together: bool = True
    propose: str = "random"

    def settings(self, steps: int) -> dict[str, Any]:
        """What Ray's schedulers of populations have in common; a tenth of 30 steps is 3."""
        return {
            "perturbation_interval": round(self.interval * steps, 6),
            "quantile_fraction": self.quantile,
            "synch": self.together,
            "log_config": False,
        }


@dataclass(frozen=True)
class Evolution:
    """A population as Ray Tune knows it: the class of its scheduler, and the settings of that.

    hold        domain and value -> what Ray reckons with
    give        domain and what Ray holds -> a value of the domain
    explored    domain, what the donor held and what Ray has made of it -> what its heir holds
    """

    scheduler: type
    settings: Mapping[str, Any]
    hold: Callable[[Domain, Scalar], Any]
    give: Callable[[Domain, Any], Scalar]
    explored: Callable[[Domain, Any, Any], Any]

    def held(self, domains: Mapping[str, Domain], values: Mapping[str, Scalar]) -> dict[str, Any]:
        """All coordinates as Ray reckons with them."""
        return {name: self.hold(domain, values[name]) for name, domain in domains.items()}

    def inherited(
        self,
        domains: Mapping[str, Domain],
        values: Mapping[str, Scalar],
        before: Mapping[str, Any],
        made: Mapping[str, Any],
    ) -> tuple[dict[str, Any], dict[str, Scalar]]:
        """What an heir holds, and its values: those of the donor, bit for bit, where Ray has left
        what was held `before`."""
        held = {n: self.explored(d, before[n], made[n]) for n, d in domains.items()}
        given = {
            n: values[n] if held[n] == before[n] else self.give(d, held[n])
            for n, d in domains.items()
        }
        return held, given


def too_few(request: Request) -> str | None:
    """Why a population cannot have so few members."""
    if request.trials is None or request.trials >= LEAST:
        return None
    return (
        f"a population has at least {LEAST} members, trials is {request.trials}\n"
        "give --trials 8, for example: trials is how many members it has"
    )
