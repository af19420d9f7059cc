"""Knobs as one vector in a box: what a method that follows the hypergradient moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from search_spaces._scales import stretch
from search_spaces.domains import Choice, Domain, Float, Int, Point, Value

LINEAR = 10.0  # the length of a linear range, so that one unit is as much as a factor of e on a log


class Coordinates:
    """The numbers of the differentiable knobs (m,), each from 0 to its length in `spans`.

    A unit is a factor of e for a knob on a log scale, a factor of e in the odds on a logit scale,
    a tenth of the range on a linear one. On log+0 they reach from the smallest value that is not
    zero. Whole numbers and choices are no coordinates: they keep the value they have in `point`.
    """

    def __init__(
        self, domains: Mapping[str, Domain], point: Point, device: torch.device | str = "cpu"
    ) -> None:
        self._floats = {n: d for n, d in domains.items() if isinstance(d, Float)}
        self.held = {n: point[n] for n, d in domains.items() if isinstance(d, Int | Choice)}
        self.held |= {n: value for n, value in point.items() if n not in domains}
        self.slices: dict[str, slice] = {}
        spans: list[float] = []
        for name, domain in self._floats.items():
            size = domain.size or 1
            self.slices[name] = slice(len(spans), len(spans) + size)
            spans += [_span(domain)] * size
        self.spans = torch.tensor(spans, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return len(self.spans)

    def of(self, point: Point) -> Tensor:
        """The vector (m,) of a point; values beyond the range sit on its end."""
        numbers: list[float] = []
        for domain, value in ((d, point[n]) for n, d in self._floats.items()):
            for one in value if isinstance(value, tuple) else (value,):
                numbers.append(_unit(domain, one) * _span(domain))
        return torch.tensor(numbers, dtype=torch.float64, device=self.spans.device)

    def values(self, t: Tensor) -> dict[str, Any]:
        """The strengths at t (m,), differentiable in it, and the held values."""
        found: dict[str, Any] = dict(self.held)
        for name, domain in self._floats.items():
            part = t[self.slices[name]] / _span(domain)
            value = stretch(_scale(domain), domain.smallest, domain.high, part)
            found[name] = value if domain.size is not None else value[0]
        return found

    def point(self, t: Tensor) -> dict[str, Value]:
        """The strengths at t as plain values."""
        found: dict[str, Value] = dict(self.held)
        for name, value in self.values(t.detach()).items():
            if name in self._floats:
                plain = value.tolist()
                found[name] = self._floats[name].settle(
                    tuple(plain) if isinstance(plain, list) else plain
                )
        return found

    def slopes(self, t: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """The gradient in the strengths themselves, by knob, from that in t (m,)."""
        t = t.detach().requires_grad_()
        found: dict[str, Tensor] = {}
        for name, columns in self.slices.items():
            value = self.values(t)[name]
            (rate,) = torch.autograd.grad(value.sum(), t)
            part = gradient[columns] / rate[columns]
            found[name] = part if self._floats[name].size is not None else part[0]
        return found

    def inside(self, t: Tensor) -> Tensor:
        """The nearest vector in the box."""
        return t.clamp(min=0).minimum(self.spans)

    def projected(self, t: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at t (m,) without what would lead out of the box."""
        out = ((t <= 0) & (gradient > 0)) | ((t >= self.spans) & (gradient < 0))
        return torch.where(out, torch.zeros_like(gradient), gradient)


def _scale(domain: Float) -> str:
    return "log" if domain.scale == "log+0" else domain.scale


def _span(domain: Float) -> float:
    """The length of the range in units; never zero."""
    low, high = domain.smallest, domain.high
    if low == high:
        return 1.0
    if _scale(domain) == "log":
        return math.log(high / low)
    if domain.scale == "logit":
        return math.log(high / (1 - high)) - math.log(low / (1 - low))
    return LINEAR


def _unit(domain: Float, value: Any) -> float:
    from search_spaces._scales import shrink

    return shrink(_scale(domain), domain.smallest, domain.high, float(value))
