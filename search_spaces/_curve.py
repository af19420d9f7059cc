"""The value of one knob along training: between knots in unit coordinates, exact on them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces._form import CURVES, MOST_CYCLES, SWINGING, check_power, ease
from search_spaces._numbers import number, shown, whole
from search_spaces._scales import shrink, stretch
from search_spaces.domains import Choice, Domain, Int, Value, from_units, units
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

NEAR_ZERO = 1e-3  # of a range that reaches zero: where an exponential curve has its zero


@dataclass(frozen=True)
class Track:
    """One knob over training: values at knots, and the form of the curve between them.

    The forms are CURVES, drawn as `Form` says; a recorded trajectory is `linear`, of a choice
    `steps`. A `cyclical` track, or one that swings as a `sine`, has the value it swings from and,
    half a swing later, the one it swings to. `options` holds `power` for cosine_power and `cycles`
    for those that swing.
    """

    form: str
    progress: tuple[float, ...]
    values: tuple[Value, ...]
    options: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Curve:
    """A track ready to be followed: its knots in unit coordinates, and slopes for a cubic."""

    domain: Domain
    track: Track
    rows: tuple[tuple[float, ...], ...]
    slopes: tuple[tuple[float, ...], ...]


def curve(domain: Domain, track: Track) -> Curve:
    """The curve through the knots of a track."""
    rows = tuple(units(domain, value) for value in track.values)
    slopes = _slopes(track.progress, rows) if track.form == "cubic" else ()
    return Curve(domain, track, rows, slopes)


def value_at(curve: Curve, progress: float) -> Value:
    """The value at this progress; knots give their own value, exactly."""
    values = curve.track.values
    index, part = locate(curve.track, progress)
    if part == 0 or curve.track.form == "steps" or values[index] == values[index + 1]:
        return values[index]
    if part == 1:
        return values[index + 1]
    value = from_units(curve.domain, _between(curve, index, part))
    first, last = values[index], values[index + 1]
    if isinstance(value, tuple) and isinstance(first, tuple) and isinstance(last, tuple):
        return tuple(map(_within, value, first, last))
    bounded: Value = _within(value, first, last)
    return bounded


def _within(value: Any, first: Any, last: Any) -> Any:
    """The number, not past the knots beside it: what does not move stays the same to the bit."""
    return min(max(value, min(first, last)), max(first, last))


def places_at(curve: Curve, progress: float) -> tuple[float, ...]:
    """The curve at this progress in unit coordinates, before whole numbers are rounded."""
    index, part = locate(curve.track, progress)
    if part == 0 or curve.track.form == "steps":
        return curve.rows[index]
    return _between(curve, index, part)


def locate(track: Track, progress: float) -> tuple[int, float]:
    """The knot at or before this progress, and the part of the way to the next one."""
    if track.form in SWINGING:
        phase = progress * track.options["cycles"] % 1
        return 0, 1 - abs(1 - 2 * phase)
    index = bisect_right(track.progress, progress) - 1
    if index < 0:
        return 0, 0.0
    if index + 1 == len(track.progress):
        return index, 0.0
    first, last = track.progress[index], track.progress[index + 1]
    return index, (progress - first) / (last - first)


def _between(curve: Curve, index: int, part: float) -> tuple[float, ...]:
    first, last = curve.rows[index], curve.rows[index + 1]
    if curve.track.form == "exponential":
        ends = zip(first, last, strict=True)
        places = [_exponential(curve.domain, a, b, part) for a, b in ends]
    elif curve.track.form != "cubic":
        weight = ease(curve.track.form, curve.track.options.get("power", 1.0), part)
        places = [a + (b - a) * weight for a, b in zip(first, last, strict=True)]
    else:
        width = curve.track.progress[index + 1] - curve.track.progress[index]
        bends = zip(first, last, curve.slopes[index], curve.slopes[index + 1], strict=True)
        places = [_hermite(a, b, s * width, t * width, part) for a, b, s, t in bends]
    return tuple(map(_within, places, first, last))


def _exponential(domain: Domain, first: float, last: float, part: float) -> float:
    """Where v1 (v2 / v1)^part lies, between places of two values v1 and v2.

    Values count from zero; in a range that reaches zero from a thousandth of its width below its
    low end, which no logarithm reaches otherwise.
    """
    assert not isinstance(domain, Choice)
    if isinstance(domain, Int):
        low, high = domain.low - 0.5, domain.high + 0.5
    else:
        low, high = domain.smallest, domain.high
    if domain.scale in ("log", "log+0"):
        return first + (last - first) * part
    zero = 0.0 if low > 0 else low - NEAR_ZERO * (high - low)
    start, end = (stretch(domain.scale, low, high, place) - zero for place in (first, last))
    return shrink(domain.scale, low, high, start * (end / start) ** part + zero)


def _hermite(first: float, last: float, slope: float, end_slope: float, part: float) -> float:
    """The cubic with these ends and slopes, on the unit interval."""
    left, right = part * (1 - part) ** 2, part**2 * (1 - part)
    blend = part**2 * (3 - 2 * part)
    return first + (last - first) * blend + slope * left - end_slope * right


def _slopes(
    progress: tuple[float, ...], rows: tuple[tuple[float, ...], ...]
) -> tuple[tuple[float, ...], ...]:
    """Slopes at the knots for which the cubic never overshoots (Fritsch and Carlson, PCHIP)."""
    from scipy.interpolate import PchipInterpolator

    slopes = PchipInterpolator(progress, rows).derivative()(progress)
    return tuple(tuple(float(slope) for slope in row) for row in slopes)


def check_track(domain: Domain, track: Track) -> None:
    """Refuses a track that is not a curve through values of the domain."""
    if track.form not in CURVES:
        known = f"known: {', '.join(CURVES)}"
        raise unknown("schedule form", track.form, CURVES, hint=known, path=("form",))
    if isinstance(domain, Choice) and track.form not in ("constant", "steps"):
        raise _bad(f"form {track.form}: the options of a choice can only follow in steps", "form")
    _check_knots(track)
    _check_options(track)
    for index, value in enumerate(track.values):
        if not domain.contains(value):
            raise _bad(f"value {shown(value)} is not possible for this knob", "values", index)


def _check_knots(track: Track) -> None:
    progress = [number("progress", place) for place in track.progress]
    least = 1 if track.form in ("constant", "steps", "linear") else 2
    if len(progress) < least:
        raise _bad(f"form {track.form} needs at least {least} knots", "progress")
    if len(track.values) != len(progress):
        raise _bad(f"{len(progress)} knots but {len(track.values)} values", "values")
    if (track.form == "constant" and len(progress) > 1) or (
        track.form in SWINGING and len(progress) > 2
    ):
        raise _bad(f"form {track.form} has too many knots: {len(progress)}", "progress")
    if not 0 <= progress[0] <= progress[-1] <= 1:
        raise _bad("progress lies outside 0..1", "progress")
    for index in range(1, len(progress)):
        if progress[index] <= progress[index - 1]:
            raise _bad("progress does not rise from knot to knot", "progress", index)


def _check_options(track: Track) -> None:
    known = {"cosine_power": {"power"}, **{form: {"cycles"} for form in SWINGING}}
    due = known.get(track.form, set())
    if set(track.options) != due:
        listed = ", ".join(sorted(due)) or "none"
        raise _bad(f"options of form {track.form}: {listed}", "options")
    if "power" in due:
        check_power(number("power", track.options["power"]))
    if "cycles" in due and not 1 <= whole("cycles", track.options["cycles"]) <= MOST_CYCLES:
        raise _bad(f"cycles lies outside 1..{MOST_CYCLES}", "options")


def _bad(message: str, *path: str | int) -> HpoError:
    return HpoError(message, hint="", code="bad-schedule", path=path)
