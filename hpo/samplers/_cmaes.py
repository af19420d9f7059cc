"""Optuna's CMA-ES, made safe: its state travels in the journal as a pickle.

A pickle can name any function and have it called. Here nothing is found by name but the classes
that a state of CMA-ES consists of, and what comes out must hold numbers and arrays of numbers only;
so a journal received from elsewhere cannot execute code.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cmaes
import numpy
from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from hpo.samplers._dice import seeded
from hpo.samplers._quiet import quiet
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from hpo.samplers.cmaes import Options

_STATES = (cmaes.CMA, cmaes.SepCMA, cmaes.CMAwM)
# NumPy renamed its core in version 2; a journal may have been written with either name.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((state.__module__, state.__name__) for state in _STATES),
    *(
        (f"numpy.{core}.{name}", function)
        for core in ("core", "_core")
        for name, function in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


def sampler(seed: int, options: Options, start: Mapping[str, Any]) -> CmaEsSampler:
    """The sampler with these options; its first cloud lies around `start`, if that is known."""
    with quiet():
        found = SafeCmaEs(
            x0=dict(start) or None,
            sigma0=options.sigma,
            n_startup_trials=options.startup_trials,
            popsize=options.population,
            # In one dimension there is no covariance to leave out, and Optuna says so at each ask.
            use_separable_cma=options.separable and len(start) != 1,
            with_margin=options.margin,
            lr_adapt=options.adapt_rate,
            consider_pruned_trials=options.pruned_trials,
            warn_independent_sampling=False,
        )
    return seeded(found, seed)


class SafeCmaEs(CmaEsSampler):
    """CMA-ES that reads its state from the trials without executing what is written there."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {
                key: value
                for key, value in trial.system_attrs.items()
                if key.startswith(self._attr_key_optimizer)
            }
            if parts:
                return _restored(trial.number, parts, self._attr_key_optimizer)
        return None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _restored(number: int, parts: Mapping[str, Any], key: str) -> Any:
    try:
        text = "".join(parts[f"{key}:{index}"] for index in range(len(parts)))
        state = _Unpickler(io.BytesIO(bytes.fromhex(text))).load()
        if not isinstance(state, _STATES) or not _holds_numbers(state):
            raise pickle.UnpicklingError("it is something else")
    except Exception as error:  # a forged pickle can fail in any way
        raise HpoError(
            f"trial {number} carries a state of CMA-ES that is damaged or forged: {error}",
            hint="nothing in it was executed; restore the ledger from a copy, or start a new study",
            code="bad-state",
        ) from error
    return state


def _holds_numbers(state: Any) -> bool:
    return all(
        _is_numeric(value) or (isinstance(value, cmaes.CMA) and _holds_numbers(value))
        for value in vars(state).values()
    )


def _is_numeric(value: Any) -> bool:
    if isinstance(value, numpy.ndarray | numpy.generic):
        return value.dtype.kind in "biuf"
    # The class makes its generator itself; it is never part of what is stored.
    return value is None or type(value) in (bool, int, float, numpy.random.RandomState)
