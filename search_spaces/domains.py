"""The knobs that are tuned: ranges with a scale, integers, and choices.

Every domain maps its values to the unit interval and back, so that samplers, schedules and
distances all see numbers between 0 and 1; a `Float` also maps an unconstrained tensor to a
value, which is how methods that tune by gradient see it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from search_spaces import _checks
from search_spaces._form import Form as Form
from search_spaces._numbers import whole
from search_spaces._scales import (
    FLOAT_SCALES,
    INT_SCALES,
    ZERO_SHARE,
    Real,
    check_range,
    check_scale,
    shrink,
    stretch,
)

if TYPE_CHECKING:
    from torch import Tensor

Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Scalar | tuple[float, ...]
Point: TypeAlias = Mapping[str, Value]
When: TypeAlias = Mapping[str, tuple[Scalar, ...]]

EDGE = 1e-3  # the free map keeps this share of the unit interval away from the ends
ROUNDING = 1e-6  # how far single precision may carry a value past the end of its range


@dataclass(frozen=True)
class Float:
    """A knob with real values between `low` and `high`.

    `scale` log+0 contains exact zero and, above it, a log scale from `low` (from 1e-6 of `high`
    when low is 0). `start` is the middle of the scale unless given. `size`: the knob is a vector
    with this many strengths. `off`: the value that switches it off, allowed even outside the
    range. `schedule`: search a curve over training instead of one value. `when`: only tuned
    while other knobs have one of these values. `limits`: beyond them the knob has no meaning.
    """

    low: float
    high: float
    scale: str = "linear"
    start: float | tuple[float, ...] | None = None
    size: int | None = None
    off: float | None = None
    schedule: Form | None = None
    when: When = field(default_factory=dict, hash=False)
    limits: tuple[float, float] = field(default=(-math.inf, math.inf), compare=False)

    def __post_init__(self) -> None:
        _checks.ends(self)
        _checks.conditions(self)
        check_scale(self.scale, FLOAT_SCALES)
        check_range(self.scale, self.low, self.high)
        _checks.float_start(self)
        _checks.limits(self)

    @property
    def smallest(self) -> float:
        """The least non-zero value on the scale log+0; the low end on the other scales."""
        return self.high * 1e-6 if self.scale == "log+0" and self.low == 0 else self.low

    @property
    def grain(self) -> float:
        """How much further apart than their places in the unit interval rounding puts values."""
        return ZERO_SHARE / 2 if self.scale == "log+0" else 0.0

    def contains(self, value: Value) -> bool:
        """Whether the knob can have this value."""
        if self.size is not None:
            return (
                isinstance(value, tuple | list)
                and len(value) == self.size
                and all(self.contains_number(entry) for entry in value)
            )
        return self.contains_number(value)

    def contains_number(self, value: object) -> bool:
        """Whether one strength of the knob can have this value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        off = value == self.off or (value == 0 and self.scale == "log+0")
        return off or self.smallest <= value <= self.high

    def to_unit(self, value: Value) -> float:
        """The place of one strength in the unit interval."""
        return shrink(self.scale, self.smallest, self.high, _checks.strength(value))

    def from_unit(self, unit: Real) -> Real:
        """The value at this place in the unit interval, for a float or a tensor of them."""
        value = stretch(self.scale, self.smallest, self.high, unit)
        return self._inside(value) if isinstance(value, float) else value

    def from_free(self, free: Tensor) -> Tensor:
        """Values for unconstrained numbers: sigmoid, then the scale, within the range.

        On log+0 the free numbers reach from the smallest non-zero value upwards: the part of
        the unit interval that means zero has no slope, and a gradient could not leave it.
        """
        scale = "log" if self.scale == "log+0" else self.scale
        value = stretch(scale, self.smallest, self.high, free.sigmoid())
        return value.clamp(self.smallest, self.high)

    def to_free(self, value: Value) -> float:
        """The unconstrained number of one strength.

        The outermost thousandth of the scale is cut off: an end itself would be infinitely far
        away, and a knob that starts there could never leave.
        """
        scale = "log" if self.scale == "log+0" else self.scale
        unit = shrink(scale, self.smallest, self.high, _checks.strength(value))
        unit = min(max(unit, EDGE), 1 - EDGE)
        return math.log(unit / (1 - unit))

    def start_value(self) -> float | tuple[float, ...]:
        """The value to begin with, a tuple for a vector."""
        start = self.from_unit(0.5) if self.start is None else self.start
        if self.size is None or isinstance(start, tuple):
            return start
        return (start,) * self.size

    def settle(self, value: Value) -> Value:
        """The value as this knob stores it, put back on an end that rounding carried it past."""
        if isinstance(value, tuple | list):
            return tuple(_checks.strength(self.settle(entry)) for entry in value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if value == self.off or not abs(value) <= sys.float_info.max:
            return self.off if value == self.off else value
        reach = max(abs(self.smallest), abs(self.high)) if self.scale == "linear" else abs(value)
        near = self.smallest - ROUNDING * reach <= value <= self.high + ROUNDING * reach
        return self._inside(float(value)) if near else float(value)

    def spec(self) -> dict[str, Any]:
        """Plain data with the keys of a study file."""
        return {"low": self.low, "high": self.high, "scale": self.scale} | _checks.extras(self)

    def _inside(self, value: float) -> float:
        if self.scale == "log+0" and value == 0:
            return value
        return float(min(max(value, self.smallest), self.high))


@dataclass(frozen=True)
class Int:
    """A knob with whole numbers from `low` to `high`; the other fields mean what `Float` says."""

    low: int
    high: int
    scale: str = "linear"
    start: int | None = None
    off: int | None = None
    schedule: Form | None = None
    when: When = field(default_factory=dict, hash=False)
    limits: tuple[float, float] = field(default=(-math.inf, math.inf), compare=False)
    size: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        for key in ("low", "high", "start", "off"):
            if getattr(self, key) is not None or key in ("low", "high"):
                object.__setattr__(self, key, whole(key, getattr(self, key)))
        _checks.conditions(self)
        check_scale(self.scale, INT_SCALES)
        _checks.int_range(self)
        _checks.inside(self, "start", self.start)
        _checks.limits(self)

    @property
    def grain(self) -> float:
        """How much further apart than their places in the unit interval rounding puts values."""
        if self.scale == "linear":
            return 1 / (self.high - self.low + 1)
        low, high = self._edges()
        return math.log((self.low + 0.5) / low) / math.log(high / low)

    def contains(self, value: Value) -> bool:
        """Whether the knob can have this value."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return value == self.off or self.low <= value <= self.high

    def to_unit(self, value: Value) -> float:
        """The place of the value in the unit interval, which is cut into one bin a value."""
        return shrink(self.scale, *self._edges(), _checks.strength(value))

    def from_unit(self, unit: float) -> int:
        """The value whose bin holds this place in the unit interval."""
        value = math.floor(stretch(self.scale, *self._edges(), float(unit)) + 0.5)
        return min(max(value, self.low), self.high)

    def start_value(self) -> int:
        """The value to begin with."""
        return self.from_unit(0.5) if self.start is None else self.start

    def settle(self, value: Value) -> Value:
        """The value as this knob stores it: 8.0 becomes 8."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def spec(self) -> dict[str, Any]:
        """Plain data with the keys of a study file; the scale says that numbers are whole."""
        scale = "int" if self.scale == "linear" else "int log"
        return {"low": self.low, "high": self.high, "scale": scale} | _checks.extras(self)

    def _edges(self) -> tuple[float, float]:
        return self.low - 0.5, self.high + 0.5


@dataclass(frozen=True)
class Choice:
    """A knob with one of several values; the first is the start unless another is given."""

    options: tuple[Scalar, ...]
    start: Scalar = None
    when: When = field(default_factory=dict, hash=False)
    size: ClassVar[int | None] = None
    off: ClassVar[float | None] = None
    schedule: ClassVar[Form | None] = None
    grain: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _checks.options(self.options))
        object.__setattr__(self, "when", _checks.when(self.when))
        if self.start is not None:
            _checks.inside(self, "start", self.start)

    def contains(self, value: Value) -> bool:
        """Whether this is one of the options; true and 1 are different."""
        return any(_checks.same(value, option) for option in self.options)

    def to_unit(self, value: Value) -> float:
        """The middle of the part of the unit interval that belongs to this option."""
        for index, option in enumerate(self.options):
            if _checks.same(value, option):
                return (index + 0.5) / len(self.options)
        raise _checks.outside(self, "value", value)

    def from_unit(self, unit: float) -> Scalar:
        """The option whose part of the unit interval holds this place."""
        index = math.floor(unit * len(self.options))
        return self.options[min(max(index, 0), len(self.options) - 1)]

    def start_value(self) -> Scalar:
        """The value to begin with."""
        return self.options[0] if self.start is None else self.start

    def settle(self, value: Value) -> Value:
        """The option that equals the value, as it was written in the options."""
        return next((option for option in self.options if _checks.same(value, option)), value)

    def spec(self) -> dict[str, Any]:
        """Plain data with the keys of a study file."""
        return {"options": list(self.options)} | _checks.extras(self)


Domain: TypeAlias = Float | Int | Choice


def scalar(domain: Domain) -> Domain:
    """One strength of the knob, without its schedule: a coordinate of a black-box search."""
    if isinstance(domain, Choice):
        return domain
    if isinstance(domain, Int):
        return dataclasses.replace(domain, schedule=None)
    start = domain.start if not isinstance(domain.start, tuple) else None
    return dataclasses.replace(domain, size=None, schedule=None, start=start)


def units(domain: Domain, value: Value) -> tuple[float, ...]:
    """The places of a value in the unit interval, one for each strength."""
    return tuple(domain.to_unit(v) for v in (value if isinstance(value, tuple) else (value,)))


def from_units(domain: Domain, places: tuple[float, ...]) -> Value:
    """The value with these places in the unit interval."""
    if isinstance(domain, Float) and domain.size is not None:
        return tuple(domain.from_unit(place) for place in places)
    return domain.from_unit(places[0])


def parse(name: str, data: object, base: Domain | None = None) -> Domain:
    """The domain that a study file describes, on top of a default one; see `_parsing`."""
    from search_spaces._parsing import parse_domain  # it needs the classes above

    return parse_domain(name, data, base)
