"""The pruners that are schedulers of Ray Tune: they decide there, the study writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hpo.pruners._steps import Steps
from hpo.samplers._options import option
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

ENDLESS = 2**62  # steps: ASHA makes rungs up to the last one, and never comes to the later ones


@dataclass(frozen=True)
class OfRay:
    """A pruner that is a scheduler of Ray Tune. `pauses`: it also lets trials wait."""

    pauses: ClassVar[bool] = False

    def build(self, steps: Steps) -> BasePruner:
        """Nothing is left to decide on the study's side."""
        from optuna.pruners import NopPruner

        return NopPruner()

    def scheduler(self, steps: Steps) -> tuple[type, Mapping[str, Any]]:
        """Ray's class, and its settings."""
        raise NotImplementedError


@dataclass(frozen=True)
class Asha(OfRay):
    """Ray Tune's asynchronous successive halving: one in `reduction_factor` passes each rung.

    Li et al., MLSys 2020. The first rung is at `grace_period` steps (the first measurement), the
    last before `max_t` (the last step); with more than one of `brackets` some trials have a later
    first rung.
    """

    max_t: int | None = option(None, at_least=1)
    grace_period: int | None = option(None, at_least=1)
    reduction_factor: float = option(4.0, above=1)
    brackets: int = option(1, at_least=1)

    def __post_init__(self) -> None:
        if self.max_t and self.grace_period and self.grace_period > self.max_t:
            raise _above("asha", "grace_period", self.grace_period, self.max_t)

    def scheduler(self, steps: Steps) -> tuple[type, Mapping[str, Any]]:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        most = self.max_t or steps.last or ENDLESS
        settings = {
            "max_t": most,
            "grace_period": min(self.grace_period or steps.first, most),
            "reduction_factor": self.reduction_factor,
            "brackets": self.brackets,
            "stop_last_trials": False,
        }
        return AsyncHyperBandScheduler, settings


@dataclass(frozen=True)
class RayHyperband(OfRay):
    """Ray Tune's HyperBand: trials of a bracket wait for each other at each rung; the best go on.

    Li et al., JMLR 18 (2018). One in `reduction_factor` passes; the last rung is at `max_t` steps
    (the last one). Every trial of the budget is known to it from the beginning, so the sampler
    learns nothing between them.
    """

    pauses: ClassVar[bool] = True

    max_t: int | None = option(None, at_least=1)
    reduction_factor: float = option(3.0, above=1)

    def scheduler(self, steps: Steps) -> tuple[type, Mapping[str, Any]]:
        from ray.tune.schedulers import HyperBandScheduler

        settings = {
            "max_t": self.max_t or steps.last,
            "reduction_factor": self.reduction_factor,
            "stop_last_trials": False,
        }
        return HyperBandScheduler, settings


def _above(name: str, key: str, value: int, most: int) -> HpoError:
    return HpoError(
        f"prune {name}: {key} {value} is above max_t {most}",
        hint="leave both out: the first measurement and the last step are the defaults",
        code="bad-option",
        path=(key,),
    )
