"""Maps between a range and the unit interval, one for each scale.

`stretch` is written with operators only, so that it works for floats and for tensors alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from search_spaces._numbers import shown
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

if TYPE_CHECKING:
    import torch

Real = TypeVar("Real", float, "torch.Tensor")

FLOAT_SCALES = ("linear", "log", "logit", "log+0")
INT_SCALES = ("linear", "log")
ZERO_SHARE = 0.1  # the part of the unit interval that means exactly zero on the scale log+0


def stretch(scale: str, low: float, high: float, unit: Real) -> Real:
    """The value at a place in the unit interval; on log+0, `low` is the smallest non-zero one."""
    value: Real = low + unit * (high - low)
    if scale == "log":
        value = low * (high / low) ** unit
    elif scale == "logit":
        first, last = low / (1 - low), high / (1 - high)
        odds: Real = first * (last / first) ** unit
        value = odds / (1 + odds)
    elif scale == "log+0":
        above = (unit - ZERO_SHARE) / (1 - ZERO_SHARE)
        value = low * (high / low) ** above * (unit >= ZERO_SHARE)
    return value


def shrink(scale: str, low: float, high: float, value: float) -> float:
    """The place of a value in the unit interval; values beyond an end sit on that end."""
    if scale == "log+0" and value < low:
        return ZERO_SHARE / 2
    if value <= low or value >= high:
        unit = float(value >= high)
    elif scale == "logit":
        first = math.log(low / (1 - low))
        last = math.log(high / (1 - high))
        unit = (math.log(value / (1 - value)) - first) / (last - first)
    elif scale == "linear":
        unit = (value - low) / (high - low)
    else:
        unit = math.log(value / low) / math.log(high / low)
    return ZERO_SHARE + unit * (1 - ZERO_SHARE) if scale == "log+0" else unit


def check_scale(scale: object, known: tuple[str, ...]) -> None:
    """Refuses a scale that is not among the known ones."""
    if scale not in known:
        extra = ""
        if scale in ("categorical", "choice"):
            extra = "; for a list of values write options: [a, b]"
        hint = f"known: {', '.join(known)}{extra}"
        raise unknown("scale", scale, known, hint=hint, path=("scale",))


def check_range(scale: str, low: float, high: float) -> None:
    """Refuses a range that is empty or that its scale cannot hold."""
    _check_order(low, high)
    if (scale == "log" and low <= 0) or (scale == "log+0" and low < 0):
        what = "0" if low == 0 else "a negative number"
        raise HpoError(
            f"low {shown(low)} with scale {scale}: the logarithm of {what} does not exist",
            hint='use scale: log+0 if "off" should be reachable, or a small low such as 1e-6'
            if scale == "log"
            else "use low: 0, or a small low such as 1e-6; zero is always part of log+0",
            code="bad-range",
            path=("low",),
        )
    if scale == "logit" and not 0 < low <= high < 1:
        key, end = ("low", low) if low <= 0 else ("high", high)
        raise HpoError(
            f"{key} {shown(end)} with scale logit: a logit exists strictly between 0 and 1 only",
            hint="use scale: linear, or ends such as low: 0.01, high: 0.99",
            code="bad-range",
            path=(key,),
        )
    _check_width(scale, low, high)


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise HpoError(
            f"low {shown(low)} is above high {shown(high)}",
            hint=f"swap them: low: {shown(high)}, high: {shown(low)}",
            code="bad-range",
            path=("low",),
        )


def _check_width(scale: str, low: float, high: float) -> None:
    """Refuses ends so far apart, or so close, that doubles cannot tell what lies between."""
    if low == high:  # one value only: fine, if odd
        return
    if scale == "linear":
        width = (high - low) / max(abs(low), abs(high))
    else:
        start = low if low > 0 else high * 1e-6
        ratio = high / start if start > 0 else math.inf
        if scale == "logit":
            ratio *= (1 - low) / (1 - high)
        width = math.log(ratio)
    if not math.isfinite(high - low) or not 1e-6 < width < math.inf:
        word = "close together" if width <= 1e-6 else "far apart"
        raise HpoError(
            f"low {shown(low)} and high {shown(high)} are too {word} for scale {scale}",
            hint="choose ends that double precision can tell apart",
            code="bad-range",
            path=("high",),
        )
