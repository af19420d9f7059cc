"""Covariance matrix adaptation: a cloud of points that moves and stretches downhill.

Hansen, The CMA evolution strategy: a tutorial, arXiv:1604.00772. Works in generations, so it pays
from some hundred trials on. The cloud starts at the start values of the knobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpo.samplers._options import option
from hpo.samplers._sampler import Request, Sampler
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search_spaces.domains import Domain


@dataclass(frozen=True)
class Options:
    """`startup_trials`: random trials before the first generation; `sigma`: first standard
    deviation, as a share of every range; `population`: points in a generation (4 + 3 ln knobs);
    `separable`: a diagonal covariance, for many knobs; `margin`: keeps whole numbers moving;
    `adapt_rate`: learning rates that adapt to noise; `pruned_trials`: use their last values;
    `others`: what to do about knobs it cannot search."""

    startup_trials: int = option(1, at_least=0)
    sigma: float = option(1 / 6, above=0, at_most=1)
    population: int | None = option(None, at_least=4)
    separable: bool = option(False)
    margin: bool = option(False)
    adapt_rate: bool = option(False)
    pruned_trials: bool = option(False)
    others: Literal["refuse", "random"] = option("refuse")

    def __post_init__(self) -> None:
        chosen = [key for key in ("separable", "margin", "adapt_rate") if getattr(self, key)]
        if len(chosen) > 1:
            raise HpoError(
                f"sampler cmaes: {' and '.join(chosen)} are variants that exclude each other",
                hint=f"keep {chosen[0]} or {chosen[1]}",
                code="bad-option",
                path=(chosen[1],),
            )


def propose(seed: int, request: Request) -> BaseSampler:
    from hpo.samplers._cmaes import sampler
    from hpo.samplers._suggest import to_param

    coordinates = request.coordinates
    start = {
        name: to_param(coordinates[name], coordinates[name].start_value())
        for name in joint(request)
    }
    return sampler(seed, request.options, start)


def joint(request: Request) -> list[str]:
    return [name for name, domain in request.coordinates.items() if _searched(domain)]


def refuse(request: Request) -> str | None:
    coordinates = request.coordinates
    others = {name: domain for name, domain in coordinates.items() if not _searched(domain)}
    if not others:
        return None
    name, domain = next(iter(others.items()))
    why = f"it depends on {', '.join(domain.when)}" if domain.when else "it is a list of options"
    if len(others) == len(coordinates):
        return f"sampler cmaes cannot search {name}: {why}, and no other knob is left\nuse tpe"
    if request.options.others == "random":
        return None
    return (
        f"sampler cmaes cannot search {name}: {why}\n"
        "use tpe, move it to fixed:, or draw such knobs at random: sampler_options: "
        "{others: random}"
    )


def _searched(domain: Domain) -> bool:
    from search_spaces.domains import Choice

    return not domain.when and not isinstance(domain, Choice)


SAMPLER = Sampler(
    propose,
    Options,
    refuse=refuse,
    joint=joint,
    summary="covariance matrix adaptation (CMA-ES); for hundreds of cheap trials",
)
