"""What a sampler is: the record that every file of this folder defines as SAMPLER."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from hpo.samplers._population import Evolution
    from objectives.training.measurement import Measurement
    from objectives.training.tuner import Tuner
    from search_spaces.domains import Domain, Point
    from search_spaces.regularizer import Regularizer

ROLE = "hpo:role"  # the trial attribute that says what a trial of an in-run sampler is for


@dataclass(frozen=True)
class NoOptions:
    """The record of a sampler that has nothing to set."""


@dataclass(frozen=True)
class InRunOptions:
    """What every sampler that tunes within a run has.

    propose: the sampler that chooses start points and untunable knobs. baseline: whether trial 0
    trains the start values held fixed. hold: whether each tuned trial is followed by one with its
    final values held.
    """

    propose: str = "tpe"
    baseline: bool = True
    hold: bool = True


@dataclass(frozen=True)
class Request:
    """What a sampler is asked for.

    `coordinates` are the scalar knobs of the study, parents before the knobs that depend on them;
    empty in a define-by-run script whose space is not known beforehand. `options` is the sampler's
    own record, `trials` the budget where there is one.
    """

    coordinates: Mapping[str, Domain] = field(default_factory=dict)
    options: Any = field(default_factory=NoOptions)
    trials: int | None = None


@dataclass(frozen=True)
class Start:
    """Where a tuned trial begins: the domains of the knobs to tune, the study's regularizers, and
    the values of all knobs, those that are held included."""

    tunable: Mapping[str, Domain]
    regularizers: Mapping[str, Regularizer]
    point: Point


@dataclass(frozen=True)
class Sampler:
    """A method that chooses points between runs (`propose`) and maybe bends them in a run (`tune`).

    propose         seed and request -> an Optuna sampler; called again at every trial, so whatever
                    it must remember lies in the study's trials
    options         the frozen dataclass of its options
    tune            the in-run half: start and options -> the `Tuner` of one trial
    descend         the in-run half for bilevel problems: problem, start, seed, options and a file
                    for checkpoints -> the Measurements of one trial
    evolve          the in-run half of a population, on an engine that has Ray Tune's schedulers:
                    request and training steps -> how its members change
    stiff           a regularizer (None: the weight of an auxiliary loss) and the domain of a knob
                    of it -> why the in-run half on networks cannot move it, as a half sentence, or
                    nothing; without it, it moves every knob
    twice           whether `descend` needs second derivatives of the inner loss
    proximal        whether `descend` knows what to do with the `prox` of an inner problem
    refuse          request -> why this space cannot be searched, or None; a second line says what
                    to do instead
    one_sequence    True: the seed is the study's own at every trial; False: one derived from it
    exhausted       study and request -> whether every point has been proposed
    joint           request -> names of the coordinates that are drawn together, where the space
                    tells; without it, or for None, Optuna infers them from the trials
    most            how many coordinates it can search
    summary         a line for `hpo list samplers`
    """

    propose: Callable[[int, Request], optuna.samplers.BaseSampler]
    options: type = NoOptions
    tune: Callable[[Start, Any], Tuner] | None = None
    descend: Callable[..., Generator[Measurement]] | None = None
    evolve: Callable[[Request, int], Evolution] | None = None
    stiff: Callable[[Regularizer | None, Domain], str] | None = None
    twice: bool = True
    proximal: bool = True
    refuse: Callable[[Request], str | None] | None = None
    one_sequence: bool = False
    exhausted: Callable[[optuna.Study, Request], bool] | None = None
    joint: Callable[[Request], list[str] | None] | None = None
    most: int = 256
    summary: str = ""

    @property
    def in_run(self) -> bool:
        """Whether it bends the knobs of a trial while that goes on."""
        return self.tune is not None or self.descend is not None
