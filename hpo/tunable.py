"""Which samplers can tune a knob, and why others cannot: what lists, refusals and notes say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from hpo import samplers

if TYPE_CHECKING:
    from hpo.samplers import Sampler
    from search_spaces.domains import Domain
    from search_spaces.regularizer import Regularizer

Group: TypeAlias = Literal["between runs", "populations", "stn", "hypergradients"]
GROUPS: tuple[Group, ...] = ("between runs", "populations", "stn", "hypergradients")
SLOW = "acts through what is learned over many steps, and no single step tells of it"
EVALUATED = "changes the weights that are evaluated, not only those that are trained"
BILEVEL = "is for bilevel problems, a knob of training for networks"


class Answer(NamedTuple):
    """Whether a sampler can tune a knob, and why not."""

    sampler: str
    why_not: str

    @property
    def can(self) -> bool:
        """Whether it can."""
        return not self.why_not


def why_not(
    sampler: Sampler, regularizer: Regularizer | None, domain: Domain, knob: str = ""
) -> str:
    """Why a sampler cannot tune a knob while a network trains, as a half sentence; or nothing.

    regularizer: what uses the knob, None for the weight of an auxiliary loss. What it cannot bend
    itself, a sampler within runs leaves to the one it proposes with.
    """
    if sampler.tune is None and sampler.descend is not None:
        return BILEVEL
    if sampler.tune is not None and regularizer is not None:
        if knob in regularizer.slow:
            return SLOW
        if regularizer.evaluated:
            return EVALUATED
    return "" if sampler.stiff is None else sampler.stiff(regularizer, domain)


def group(name: str, sampler: Sampler) -> Group | None:
    """The kind of a sampler; None for one that is for bilevel problems alone."""
    if sampler.evolve is not None:
        return "populations"
    if not sampler.in_run:
        return "between runs"
    if sampler.tune is None:
        return None
    return "hypergradients" if sampler.descend is not None else "stn"


def answers(regularizer: Regularizer, knob: str) -> dict[Group, list[Answer]]:
    """What each sampler of each kind says to a knob."""
    found: dict[Group, list[Answer]] = {kind: [] for kind in GROUPS}
    for name in samplers.names():
        sampler = samplers.load(name)
        kind = group(name, sampler)
        if kind is not None:
            reason = why_not(sampler, regularizer, regularizer.knobs[knob], knob)
            found[kind].append(Answer(name, reason))
    return found


def word(given: list[Answer]) -> str:
    """yes, no, or the samplers that can, if only some of a kind can."""
    able = [answer.sampler for answer in given if answer.can]
    if len(able) in (0, len(given)):
        return "yes" if able else "no"
    return ", ".join(able)
