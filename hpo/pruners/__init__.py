"""Pruners by name: every pruner of Optuna, and those of Ray Tune that are schedulers there, with
options checked and defaults that fit training.

A trial is measured at steps first, 2 first, 3 first, ... up to the last step. Where Optuna's
defaults count reports, the ones here are shares of that range.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from hpo.pruners._ray import Asha, OfRay, RayHyperband
from hpo.pruners._steps import Steps as Steps
from hpo.samplers._options import option, read
from hpo.samplers._quiet import quiet
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Spec: TypeAlias = str | Mapping[str, Any] | None


@dataclass(frozen=True)
class NoPruning:
    """Trials run to their end."""

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import NopPruner

        return NopPruner()


@dataclass(frozen=True)
class Percentile:
    """Ends a trial whose best value so far is not among the best `percentile` percent at its step.

    Not before `startup_trials` trials are complete, nor before step `warmup_steps` (a fifth of the
    steps), nor where fewer than `min_trials` trials were measured; looks every `interval_steps`.
    """

    percentile: float = option(25.0, at_least=0, at_most=100)
    startup_trials: int = option(4, at_least=0)
    warmup_steps: int | None = option(None, at_least=0)
    interval_steps: int = option(1, at_least=1)
    min_trials: int = option(1, at_least=1)

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import PercentilePruner

        return PercentilePruner(
            self.percentile,
            self.startup_trials,
            steps.warmup if self.warmup_steps is None else self.warmup_steps,
            self.interval_steps,
            n_min_trials=self.min_trials,
        )


@dataclass(frozen=True)
class Median:
    """Ends a trial whose best value so far is worse than the median at its step; see Percentile."""

    startup_trials: int = option(4, at_least=0)
    warmup_steps: int | None = option(None, at_least=0)
    interval_steps: int = option(1, at_least=1)
    min_trials: int = option(1, at_least=1)

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import MedianPruner

        return MedianPruner(
            self.startup_trials,
            steps.warmup if self.warmup_steps is None else self.warmup_steps,
            self.interval_steps,
            n_min_trials=self.min_trials,
        )


@dataclass(frozen=True)
class SuccessiveHalving:
    """Lets one in `reduction_factor` trials pass each rung; every rung lies that much later.

    Asynchronous successive halving (Li et al., MLSys 2020) without pausing: a trial is judged when
    it comes to a rung. The first rung is at `min_resource` steps (the first measurement), times the
    factor for each `min_early_stopping_rate`; `bootstrap_count` trials must have come to a rung
    before one may pass it.
    """

    min_resource: int | None = option(None, at_least=1)
    reduction_factor: int = option(4, at_least=2)
    min_early_stopping_rate: int = option(0, at_least=0)
    bootstrap_count: int = option(0, at_least=0)

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import SuccessiveHalvingPruner

        return SuccessiveHalvingPruner(
            self.min_resource or steps.first,
            self.reduction_factor,
            self.min_early_stopping_rate,
            self.bootstrap_count,
        )


@dataclass(frozen=True)
class Hyperband:
    """Successive halving in several brackets that differ in how early they begin to prune.

    Li et al., JMLR 18 (2018). `min_resource` is the first measurement and `max_resource` the last
    step unless given; `reduction_factor` and `bootstrap_count` as in successive halving.
    """

    min_resource: int | None = option(None, at_least=1)
    max_resource: int | None = option(None, at_least=1)
    reduction_factor: int = option(3, at_least=2)
    bootstrap_count: int = option(0, at_least=0)

    def __post_init__(self) -> None:
        if self.min_resource and self.max_resource and self.min_resource > self.max_resource:
            raise HpoError(
                f"prune hyperband: min_resource {self.min_resource} is above max_resource "
                f"{self.max_resource}",
                hint="leave both out: the first measurement and the last step are the defaults",
                code="bad-option",
                path=("min_resource",),
            )

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import HyperbandPruner

        least, most = self.min_resource or steps.first, self.max_resource or steps.last
        if most is not None and least > most:  # trials end before the first rung
            return NoPruning().build(steps)
        # Optuna refuses to bootstrap while it does not know the last step.
        count = 0 if most is None else self.bootstrap_count
        return HyperbandPruner(least, most or "auto", self.reduction_factor, count)


@dataclass(frozen=True)
class Threshold:
    """Ends a trial whose value leaves `lower`..`upper` (diverges), or is not a number."""

    lower: float | None = option(None)
    upper: float | None = option(None)
    warmup_steps: int = option(0, at_least=0)
    interval_steps: int = option(1, at_least=1)

    def __post_init__(self) -> None:
        if self.lower is None and self.upper is None:
            raise HpoError(
                "prune threshold: neither lower nor upper is given",
                hint="for example prune: {threshold: {upper: 10}}",
                code="bad-option",
            )
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise HpoError(
                f"prune threshold: lower {self.lower:g} is above upper {self.upper:g}",
                hint="swap them",
                code="bad-option",
                path=("lower",),
            )

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import ThresholdPruner

        return ThresholdPruner(self.lower, self.upper, self.warmup_steps, self.interval_steps)


@dataclass(frozen=True)
class Wilcoxon:
    """Ends a trial that a signed-rank test finds worse than the best one, step against same step.

    For objectives whose steps are separate instances (folds, data sets) and whose value is their
    mean; the points of one learning curve are not independent, so there it prunes too eagerly.
    """

    p_threshold: float = option(0.1, at_least=0, at_most=1)
    startup_steps: int = option(2, at_least=0)

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import WilcoxonPruner

        with quiet():
            found = WilcoxonPruner(p_threshold=self.p_threshold, n_startup_steps=self.startup_steps)
        return _without_warnings(found)


@dataclass(frozen=True)
class Patient:
    """Ends a trial whose last measurements, more than `patience`, are all worse than its best.

    Worse by more than `min_delta`. With `then` (a pruner, written as under prune:) that pruner
    decides once patience has run out.
    """

    patience: int = option(5, at_least=0)
    min_delta: float = option(0.0, at_least=0)
    then: Any = field(default="none")

    def build(self, steps: Steps) -> BasePruner:
        from optuna.pruners import NopPruner, PatientPruner

        try:
            chosen = _read(self.then)
            if isinstance(chosen, OfRay):
                raise HpoError(
                    f"prune patient: then is {name_of(self.then)}, which decides by itself",
                    hint=f"use prune: {name_of(self.then)} alone, or a pruner of Optuna's here",
                    code="bad-option",
                )
            then = chosen.build(steps)
        except HpoError as error:
            raise error.under("patient", "then") from None
        wrapped = None if isinstance(then, NopPruner) else then
        with quiet():
            return _without_warnings(PatientPruner(wrapped, self.patience, self.min_delta))


Record: TypeAlias = (
    NoPruning
    | Median
    | Percentile
    | Hyperband
    | SuccessiveHalving
    | Patient
    | Threshold
    | Wilcoxon
    | Asha
    | RayHyperband
)
RECORDS: Mapping[str, type[Record]] = {
    "none": NoPruning,
    "median": Median,
    "percentile": Percentile,
    "hyperband": Hyperband,
    "successive_halving": SuccessiveHalving,
    "patient": Patient,
    "threshold": Threshold,
    "wilcoxon": Wilcoxon,
    "asha": Asha,
    "ray_hyperband": RayHyperband,
}


def names() -> list[str]:
    """The pruners that can be given by name."""
    return list(RECORDS)


def build(spec: Spec, first_step: int = 1, max_step: int | None = None) -> BasePruner:
    """The pruner that a spec describes: a name, or {name: {option: value}}.

    `first_step` is the step of the first measurement of a trial (and the distance between two),
    `max_step` the last one where it is known. Raises HpoError with a path under ("prune",).
    """
    try:
        return _read(spec).build(Steps(first_step, max_step))
    except HpoError as error:
        raise error.under("prune") from None


def of_ray(spec: Spec) -> OfRay | None:
    """The pruner that a valid spec describes if it is a scheduler of Ray Tune, else None."""
    found = _read(spec)
    return found if isinstance(found, OfRay) else None


def pauses(spec: Spec) -> bool:
    """Whether it stops trials at their measurements and takes them up again."""
    found = of_ray(spec)
    return found is not None and found.pauses


def name_of(spec: Spec) -> str:
    """The name in a spec."""
    return _parts(spec)[0]


def _read(spec: object) -> Record:
    name, options = _parts(spec)
    path = () if isinstance(spec, str) else (name,)
    if name not in RECORDS:
        hint = f"known: {', '.join(RECORDS)}"
        raise unknown("pruner", name, RECORDS, hint=hint, path=path)
    return read(RECORDS[name], options, f"prune {name}", path)


def _parts(spec: object) -> tuple[str, Mapping[str, Any]]:
    """The name of a pruner and its options."""
    if spec is None:
        return "none", {}
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, options = next(iter(spec.items()))
        if options is None or isinstance(options, Mapping):
            return str(name), options or {}
    raise HpoError(
        f"prune is {str(spec)[:60]}: one pruner is due, by name or with its options",
        hint="for example prune: median, or prune: {median: {startup_trials: 5}}",
        code="bad-pruner",
        found=spec,
    )


def _without_warnings(pruner: BasePruner) -> BasePruner:
    """The same decisions without remarks about values that are missing or not finite."""
    from optuna.pruners import BasePruner

    class Silent(BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return bool(pruner.prune(study, trial))

    return Silent()
