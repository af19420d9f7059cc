"""What a way to a hypergradient in training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hpo.bilevel.online.view import State


@dataclass(frozen=True)
class Found:
    """gradient (m,): of the outer loss in the knobs; state: what the method remembers next.

    slope: of the inner loss, (n,), with which the parameters are to be stepped where the method
    says so itself; None where training goes its own way. residual: what is left of the linear
    system, as a share of its right-hand side; nan if it is not known.
    """

    gradient: Tensor
    state: State = field(default_factory=dict)
    slope: Tensor | None = None
    residual: float = float("nan")

    @property
    def lasting(self) -> State:
        """The state to go on from: nothing after a gradient that is no number, since what led to it
        would spoil every later one."""
        return self.state if bool(torch.isfinite(self.gradient).all()) else {}


class Method(ABC):
    """every: training steps for each step of the knobs, unless the user says. simultaneous: the
    parameters of a bilevel problem take the step that comes with the gradient, and no other.
    follows: it learns at every training step, and not only where the knobs take one."""

    every: ClassVar[int] = 10
    simultaneous: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    def learn(self, view: Any, t: Tensor, state: State) -> State:
        """What it remembers after a training step, on the rows that were trained on."""
        return state

    @abstractmethod
    def gradient(self, view: Any, t: Tensor, state: State) -> Found:
        """The hypergradient where the parameters are; `view` is a `View`."""
