"""Knobs as unconstrained numbers: what a method that tunes by gradient moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_spaces.domains import EDGE, Choice, Domain, Float, Int, Point, Value
from search_spaces.errors import HpoError
from search_spaces.regularizer import Scope

LIMIT = 4.0  # 2% of the range from either end: beyond, a knob has no effect left to be seen by


@dataclass(frozen=True)
class Column:
    """One free number: a strength of a knob, or the logit of one of its options.

    `shared`: one draw holds for the whole batch, because the knob has no effect example by example.
    """

    knob: str
    place: int | None
    domain: Domain
    shared: bool

    @property
    def name(self) -> str:
        """How metrics call it: `dropout`, `l2[3]`, `policy[flip]`."""
        if isinstance(self.domain, Choice):
            return f"{self.knob}[{self.domain.options[self.place or 0]}]"
        return self.knob if self.place is None else f"{self.knob}[{self.place}]"


class FreeKnobs:
    """The free numbers of some knobs, in a fixed order, and the way from them to values.

    A number knob has one free number for each strength: the logit of its place in the unit
    interval of its scale. A choice has one logit for each option. `columns` describes them.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        scopes: Mapping[str, Scope],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.domains = dict(domains)
        self.columns = [c for name in domains for c in _columns(name, domains[name], scopes[name])]
        self.slices = _slices(self.columns)
        self.shared = torch.tensor([c.shared for c in self.columns], device=device)
        self.any_shared = any(c.shared for c in self.columns)
        self._device, self._dtype = device, dtype
        offsets, spans, logarithmic = zip(*(_line(c.domain) for c in self.columns), strict=True)
        self._offsets = torch.tensor(offsets, device=device, dtype=dtype)
        self._spans = torch.tensor(spans, device=device, dtype=dtype)
        self._logarithmic = any(logarithmic)
        self._logarithmic_mask = torch.tensor(logarithmic, device=device)
        self._odds = [
            (self.slices[name], domain)
            for name, domain in domains.items()
            if isinstance(domain, Float) and domain.scale == "logit"
        ]

    def is_shared(self, name: str) -> bool:
        """Whether one draw of this knob holds for the whole batch."""
        return bool(self.columns[self.slices[name].start].shared)

    def __len__(self) -> int:
        return len(self.columns)

    def initial(self, point: Point) -> Tensor:
        """The free numbers (columns,) of a point."""
        numbers = [n for name, domain in self.domains.items() for n in _free(domain, point[name])]
        return torch.tensor(numbers, device=self._device, dtype=self._dtype)

    def flat_values(self, free: Tensor) -> Tensor:
        """The strengths (..., columns) at free numbers (..., columns); zero for options."""
        line = self._offsets + self._spans * free.sigmoid()
        if self._logarithmic:
            line = torch.where(self._logarithmic_mask, line.exp(), line)
        for columns, domain in self._odds:
            line[..., columns] = domain.from_free(free[..., columns])
        return line

    def values(self, free: Tensor) -> dict[str, Tensor]:
        """The strengths of the number knobs at free numbers (..., columns).

        Each is a tensor (...), or (..., size) for a vector. Whole numbers are not rounded here.
        """
        line = self.flat_values(free)
        return {
            name: _only(domain, line[..., self.slices[name]])
            for name, domain in self.domains.items()
            if not isinstance(domain, Choice)
        }

    def probabilities(self, free: Tensor) -> dict[str, Tensor]:
        """For each choice the probabilities (..., options) of its options."""
        return {
            name: free[..., self.slices[name]].softmax(-1)
            for name, domain in self.domains.items()
            if isinstance(domain, Choice)
        }

    def point(self, free: Tensor) -> dict[str, Value]:
        """The knobs as plain values at free numbers (columns,): of a choice the likeliest option,
        of a whole number the nearest one."""
        free = free.detach().double().cpu()
        found: dict[str, Value] = {}
        for name, domain in self.domains.items():
            numbers = free[self.slices[name]]
            if isinstance(domain, Choice):
                found[name] = domain.options[int(numbers.argmax())]
            elif isinstance(domain, Int):
                found[name] = domain.from_unit(float(numbers.sigmoid()))
            else:
                values = domain.from_free(numbers).tolist()
                found[name] = domain.settle(tuple(values) if domain.size else values[0])
        return found

    def by_knob(self, numbers: Tensor) -> dict[str, Any]:
        """Numbers (columns,) as a plain number for each knob, a tuple for a vector."""
        plain = numbers.detach().cpu().tolist()
        return {
            name: tuple(plain[self.slices[name]])
            if getattr(domain, "size", None)
            else plain[self.slices[name]][0]
            for name, domain in self.domains.items()
            if not isinstance(domain, Choice)
        }


def _only(domain: Domain, numbers: Tensor) -> Tensor:
    """The numbers of a knob: without the dimension of columns unless it is a vector."""
    return numbers if getattr(domain, "size", None) else numbers[..., 0]


def _columns(name: str, domain: Domain, scope: Scope) -> list[Column]:
    shared = scope == "batch"
    if isinstance(domain, Choice):
        numeric = all(isinstance(o, int | float) for o in domain.options)
        return [
            Column(name, place, domain, shared or not numeric)
            for place in range(len(domain.options))
        ]
    if isinstance(domain, Float) and domain.size is not None:
        return [Column(name, place, domain, shared) for place in range(domain.size)]
    return [Column(name, None, domain, shared)]


def _slices(columns: list[Column]) -> dict[str, slice]:
    found: dict[str, slice] = {}
    for index, column in enumerate(columns):
        begun = found.get(column.knob)
        found[column.knob] = slice(begun.start if begun else index, index + 1)
    return found


def _line(domain: Domain) -> tuple[float, float, bool]:
    """Offset, span and whether to exponentiate: value = (exp of) offset + span * sigmoid(free)."""
    if isinstance(domain, Choice):
        return 0.0, 0.0, False
    low, high = (domain.low, domain.high)
    if isinstance(domain, Int):
        low, high = low - 0.5, high + 0.5
    elif domain.scale == "log+0":
        low = domain.smallest
    if domain.scale in ("log", "log+0"):
        return math.log(low), math.log(high / low), True
    return float(low), float(high - low), False


def _free(domain: Domain, value: Value) -> list[float]:
    if isinstance(domain, Choice):
        # The start value is the likeliest option, and every other one is still drawn often.
        first = domain.options.index(value) if value in domain.options else 0
        return [1.0 if place == first else 0.0 for place in range(len(domain.options))]
    if isinstance(domain, Int):
        unit = min(max(domain.to_unit(value), EDGE), 1 - EDGE)
        return [math.log(unit / (1 - unit))]
    values = value if isinstance(value, tuple) else (value,)
    if any(not isinstance(v, int | float) for v in values):
        raise HpoError(f"{value!r} is not a strength", code="bad-type", found=value)
    return [domain.to_free(v) for v in values]
