"""The steps of the knobs: Adam in a box (Kingma and Ba, ICLR 2015)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_FADING, _SQUARES = 0.9, 0.99
_LONGEST = 0.5  # of a step, in units of a coordinate (a factor of e)
_LEAST = 1e-30


@dataclass(frozen=True)
class Knobs:
    """Coordinates t (m,) between 0 and `spans`, the running mean of their gradient and of its
    square, how many steps were taken, and how many were refused."""

    t: Tensor
    mean: Tensor
    square: Tensor
    steps: int = 0
    refused: int = 0

    @staticmethod
    def at(t: Tensor) -> Knobs:
        return Knobs(t, torch.zeros_like(t), torch.zeros_like(t))


def stepped(knobs: Knobs, gradient: Tensor, rate: float, spans: Tensor) -> Knobs:
    """The knobs after a step downhill of `rate` of their ranges; unmoved where the gradient is not
    finite."""
    if not bool(torch.isfinite(gradient).all()):
        return replace(knobs, refused=knobs.refused + 1)
    mean = _FADING * knobs.mean + (1 - _FADING) * gradient
    square = _SQUARES * knobs.square + (1 - _SQUARES) * gradient**2
    steps = knobs.steps + 1
    size = (square / (1 - _SQUARES**steps)).sqrt()
    step = rate * spans * (mean / (1 - _FADING**steps)) / (size + _LEAST)
    t = (knobs.t - step.clamp(-_LONGEST, _LONGEST)).clamp(min=0).minimum(spans)
    return Knobs(t, mean, square, steps, knobs.refused)


def rate_of(path: float, steps: int) -> float:
    """The length of a step that lets a knob travel its range `path` times in so many steps."""
    return path / max(1, steps)
