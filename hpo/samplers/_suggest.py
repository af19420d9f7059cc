"""Between a knob's domain and the parameter Optuna holds for it.

Optuna knows linear and logarithmic ranges. A float on one of the other scales is held as its place
in the unit interval, where that scale is uniform; options that Optuna would confuse (1 and true)
are held as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.space import holds

if TYPE_CHECKING:
    import optuna

    from search_spaces.domains import Scalar, Value

_NATIVE = ("linear", "log")


def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """The Optuna distribution that a domain is searched with."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choice):
        return CategoricalDistribution(_held(domain))
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, log=domain.scale == "log")
    if in_unit(domain):
        return FloatDistribution(0.0, 1.0)
    return FloatDistribution(domain.low, domain.high, log=domain.scale == "log")


def suggest(trial: optuna.Trial, coordinates: Mapping[str, Domain]) -> dict[str, Scalar]:
    """A value for every active coordinate, in the knob's own units; asks the trial's sampler."""
    values: dict[str, Scalar] = {}
    for name, domain in coordinates.items():
        if not domain.when or holds(domain, values):
            values[name] = from_param(domain, _drawn(trial, name, domain))
    return values


def to_param(domain: Domain, value: Value) -> Scalar:
    """What Optuna holds for a value of the knob (for `study.enqueue_trial`).

    The value `off` may lie outside the range, where Optuna has no place for it; the nearest end
    stands for it.
    """
    if isinstance(domain, Choice):
        return _held(domain)[int(domain.to_unit(value) * len(domain.options))]
    if in_unit(domain):
        return domain.to_unit(value)
    assert isinstance(value, int | float)
    inside = min(max(value, domain.low), domain.high)
    return inside if isinstance(domain, Int) else float(inside)


def from_param(domain: Domain, param: Any) -> Scalar:
    """The knob's value for what Optuna holds."""
    if isinstance(domain, Choice):
        held = _held(domain)
        return param if held is domain.options else domain.options[held.index(param)]
    if in_unit(domain):
        return domain.from_unit(float(param))
    scalar: Scalar = param
    return scalar


def in_unit(domain: Domain) -> bool:
    """Whether Optuna holds the place in the unit interval instead of the value."""
    return isinstance(domain, Float) and domain.scale not in _NATIVE


def _drawn(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, _held(domain))
    if isinstance(domain, Int):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.scale == "log")
    if in_unit(domain):
        return trial.suggest_float(name, 0.0, 1.0)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.scale == "log")


def _held(domain: Choice) -> tuple[Scalar, ...]:
    """The options as Optuna holds them: to it 1 and true are the same, so they become text."""
    options = domain.options
    return options if len(set(options)) == len(options) else tuple(map(repr, options))
