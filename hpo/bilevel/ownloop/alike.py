"""An optimizer for the gates that is like the one of a user's own loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

_OWN_RATE = 1e-3  # Adam's default


def optimizer_like(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], peak: Callable[[], float]
) -> tuple[torch.optim.Optimizer, str | None]:
    """One of the same kind for other parameters, without decay of weights; and None.

    For a kind that cannot be built from its defaults it is Adam, and a sentence that says so.
    `peak` tells the highest learning rate of the loop so far.
    """
    kind, group = type(optimizer), optimizer.param_groups[0]
    known = parameters_of(kind.__init__)
    options = {n: group[n] for n in optimizer.defaults if n in known and n in group}
    if "weight_decay" in options:
        options["weight_decay"] = 0.0
    try:
        return kind(parameters, **options), None
    except Exception:  # whatever a constructor of somebody else's raises
        note = (
            f"{kind.__name__} cannot be built from its defaults: the gates learn with Adam, at"
            f" {_OWN_RATE:g} where the learning rate of the loop is at its highest"
        )
        return _ByShare(parameters, peak), note


class _ByShare(torch.optim.Adam):
    """Adam at a rate of its own: it is given the loop's, and takes its share of the peak.

    Steps of Adam are as long as its rate, whatever the gradients are: the rate of an optimizer of
    another kind would be far too long or far too short.
    """

    def __init__(self, parameters: list[nn.Parameter], peak: Callable[[], float]) -> None:
        super().__init__(parameters, lr=_OWN_RATE)
        self._peak = peak

    def step(self, closure: Any = None) -> Any:
        peak = self._peak()
        given = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, given, strict=True):
            group["lr"] = _OWN_RATE * rate / peak if peak > 0 else _OWN_RATE
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, given, strict=True):
                group["lr"] = rate


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; none for those that do not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions
        return {}
