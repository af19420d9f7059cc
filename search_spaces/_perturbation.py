"""What a schedule is under the perturbations it was found with: its mean, and its usual reach."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces._curve import Track, value_at
from search_spaces._scales import stretch
from search_spaces._spread import Latent, Sigma, latent, sigma_at, sigmas
from search_spaces._thin import bends
from search_spaces.domains import Domain, Int, Value, units

if TYPE_CHECKING:
    from search_spaces.schedule import Schedule

NODES = 32
TOLERANCE = 1e-3  # of the range: how far straight lines may leave the mean between two knots
FINEST = 1 / 256  # of the training: a shorter stretch is not divided
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
# One strength of a knob, not resting, and its spread; gives back the number made of them.
Change = Callable[[Latent, float, float], float]


def expected(schedule: Schedule) -> Schedule:
    """The schedule of mean values, without spreads; see `Schedule.expected`."""
    from search_spaces.schedule import Schedule as Made

    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)  # of weight exp(-x^2 / 2)
    weights = weights / weights.sum()

    def mean(one: Latent, value: float, sigma: float) -> float:
        return float(weights @ from_free(one, one.knob.to_free(value) + sigma * nodes))

    tracks = {
        name: _mean_track(schedule, name, mean) if name in schedule.spreads else track
        for name, track in schedule.tracks.items()
    }
    return Made(schedule.space, tracks)


def band(schedule: Schedule, progress: float, reach: float) -> dict[str, tuple[Value, Value]]:
    """The values `reach` spreads below and above those at this progress; see `Schedule.band`."""

    def shifted(by: float) -> Change:
        def change(one: Latent, value: float, sigma: float) -> float:
            there = float(from_free(one, np.array(one.knob.to_free(value) + by * sigma)))
            # A value on an end has its free coordinate inside: the band still holds it.
            return min(there, value) if by < 0 else max(there, value)

        return change

    point, spread = schedule.at(progress), schedule.spread_at(progress)
    return {
        name: (
            _changed(schedule.space[name], point[name], sigma, shifted(-reach)),
            _changed(schedule.space[name], point[name], sigma, shifted(reach)),
        )
        for name, sigma in spread.items()
    }


def from_free(one: Latent, free: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `Float.from_free` gives for a tensor, for an array; whole numbers are not rounded."""
    knob = one.knob
    scale = "log" if knob.scale == "log+0" else knob.scale
    unit: Any = 0.5 * (1 + np.tanh(free / 2))  # the sigmoid, without overflow
    value: NDArray[np.float64] = np.asarray(stretch(scale, knob.smallest, knob.high, unit))
    return value.clip(one.low, one.high)


def _mean_track(schedule: Schedule, name: str, mean: Change) -> Track:
    domain, track, spread = schedule.space[name], schedule.tracks[name], schedule.spreads[name]
    curve = schedule.curves[name]

    def mean_at(place: float) -> Value:
        value = _changed(domain, value_at(curve, place), sigma_at(spread, place), mean)
        return _rounded(domain, value)

    places = sorted({*spread.progress, *bends(track)})
    form = "steps" if track.form == "steps" else "linear"
    if form == "linear" and not isinstance(domain, Int):
        for first, last in pairwise(tuple(places)):
            places += _between(domain, mean_at, first, last)
    progress = tuple(sorted(places))
    values = tuple(mean_at(place) for place in progress)
    if all(value == values[0] for value in values):
        return Track("constant", (0.0,), values[:1])
    return Track(form, progress, values)


def _between(
    domain: Domain, mean_at: Callable[[float], Value], first: float, last: float
) -> list[float]:
    """Places between two knots so that straight lines through their means follow the mean."""
    found = []
    waiting = [(first, last)]
    while waiting:
        low, high = waiting.pop()
        rows = np.array([units(domain, mean_at(low + (high - low) * s)) for s in QUARTERS])
        drawn = rows[0] + (rows[-1] - rows[0]) * np.array(QUARTERS)[:, None]
        if high - low > FINEST and np.abs(rows - drawn).max() > TOLERANCE:
            middle = (low + high) / 2
            found.append(middle)
            waiting += [(low, middle), (middle, high)]
    return found


def _changed(domain: Domain, value: Value, sigma: Sigma, change: Change) -> Value:
    """The value with each strength changed that its spread moves; the others are as they were."""
    one = latent(domain)
    changed = tuple(
        entry if one.rests(entry, spread) else change(one, entry, spread)
        for entry, spread in zip(sigmas(value), sigmas(sigma), strict=True)
    )
    return changed if isinstance(value, tuple) else changed[0]


def _rounded(domain: Domain, value: Value) -> Value:
    """The value as its knob has it: the mean of a whole number is rounded to the nearest one."""
    if isinstance(domain, Int) and isinstance(value, float):
        return int(np.floor(value + 0.5))
    return domain.settle(value)
