"""Every combination of a few evenly spaced values of each knob, each once.

Values are even on the knob's own scale, ends included; a knob on the scale log+0 gets exact zero as
its first value. A range with no more whole numbers than `points`, and a list of options, is used
entirely. The order is random but balanced: whenever the budget ends, the values of the first knobs
have been tried about equally often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.samplers._options import option
from hpo.samplers._sampler import Request, Sampler

if TYPE_CHECKING:
    from optuna import Study

    from hpo.samplers._exhaustive import Exhaustive


@dataclass(frozen=True)
class Options:
    """`points`: how many values of each range are combined."""

    points: int = option(5, at_least=2, at_most=1000)


def propose(seed: int, request: Request) -> Exhaustive:
    from hpo.samplers._exhaustive import Exhaustive

    return Exhaustive(seed, request.options.points, request.coordinates)


def refuse(request: Request) -> str | None:
    from hpo.samplers._branches import MOST, combinations, describe

    points = request.options.points
    count = combinations(request.coordinates, points)
    if count <= MOST:
        return None
    conditional = any(domain.when for domain in request.coordinates.values())
    return (
        f"sampler grid would need {describe(count, conditional)} trials, with {points} points for "
        f"each range\nuse sampler_options: {{points: {max(points // 2, 2)}}}, fewer knobs, or qmc"
    )


def exhausted(study: Study, request: Request) -> bool:
    return propose(0, request).exhausted(study)


SAMPLER = Sampler(
    propose,
    Options,
    refuse=refuse,
    exhausted=exhausted,
    summary="every combination of a few values of each knob",
)
