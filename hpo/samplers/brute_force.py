"""Every combination of all values of the knobs, each once, in a balanced random order.

For knobs with few values: options and whole numbers. In a script whose space is not known
beforehand, a real number is drawn at random beside every combination of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.samplers._sampler import Request, Sampler

if TYPE_CHECKING:
    from optuna import Study

    from hpo.samplers._exhaustive import Exhaustive


def propose(seed: int, request: Request) -> Exhaustive:
    from hpo.samplers._exhaustive import Exhaustive

    return Exhaustive(seed, None, request.coordinates)


def refuse(request: Request) -> str | None:
    from hpo.samplers._branches import MOST, combinations, describe
    from search_spaces.domains import Float, Int

    for name, domain in request.coordinates.items():
        if isinstance(domain, Float):
            return (
                f"sampler brute_force cannot search {name}: a real number has endless values\n"
                "use grid, or give it as options: [a, b, c]"
            )
        if isinstance(domain, Int) and domain.high - domain.low >= MOST:
            return (
                f"sampler brute_force cannot search {name}: it has "
                f"{domain.high - domain.low + 1:,} values\n"
                "use grid, or give it as options: [a, b, c]"
            )
    count = combinations(request.coordinates, None)
    if count <= MOST:
        return None
    conditional = any(domain.when for domain in request.coordinates.values())
    return (
        f"sampler brute_force would need {describe(count, conditional)} trials\n"
        "search fewer knobs at once, or use random, tpe or grid"
    )


def exhausted(study: Study, request: Request) -> bool:
    return propose(0, request).exhausted(study)


SAMPLER = Sampler(
    propose,
    refuse=refuse,
    exhausted=exhausted,
    summary="every combination of all values, for options and whole numbers",
)
