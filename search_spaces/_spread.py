"""How far knobs were perturbed: the standard deviation of their draws along training.

A method that tunes within a run may train under value = from_free(u + sigma * eps), eps ~ N(0, 1),
with u the free (unconstrained) coordinate of the knob. The track of sigma is its spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from search_spaces._curve import Track, check_track, locate
from search_spaces._numbers import number, shown
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

Sigma: TypeAlias = float | tuple[float, ...]
SpreadPoint: TypeAlias = Mapping[str, Sigma]

FORMS = ("constant", "linear")
MOST = 1000.0  # far beyond the point at which all draws lie at the ends of the range


def checked(space: Mapping[str, Domain], spreads: Mapping[str, Track]) -> dict[str, Track]:
    """The spreads in the order of the space, as floats; those that are zero throughout left out.

    HpoError for a knob that is not there or is a choice, for another form than a straight line, and
    for anything but finite numbers from 0 on.
    """
    for name in spreads:
        if name not in space:
            raise unknown("knob", name, space, path=("spreads", name))
    tracks = {}
    for name in (name for name in space if name in spreads):
        try:
            track = _checked(space[name], spreads[name])
        except HpoError as error:
            raise error.under("spreads", name) from None
        if any(any(sigmas(value)) for value in track.values):
            tracks[name] = track
    return tracks


def sigmas(value: Any) -> tuple[float, ...]:
    """The entries of a spread, one for each strength."""
    return value if isinstance(value, tuple) else (value,)


def sigma_at(track: Track, progress: float) -> Sigma:
    """The spread at this progress: straight lines between knots, the ends hold beyond them."""
    index, part = locate(track, progress)
    first = sigmas(track.values[index])
    last = sigmas(track.values[index + 1]) if part else first
    between = tuple(max(a + (b - a) * part, 0.0) for a, b in zip(first, last, strict=True))
    return between if isinstance(track.values[index], tuple) else between[0]


def recorded(rows: Mapping[float, SpreadPoint]) -> dict[str, Track]:
    """The spread of every knob that some row names, in straight lines; unchecked."""
    tracks = {}
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        places = [place for place in sorted(rows) if name in rows[place]]
        tracks[name] = straight(places, [rows[place][name] for place in places])
    return tracks


def straight(places: list[float], values: list[Sigma]) -> Track:
    """Straight lines through these spreads, or one constant."""
    if all(value == values[0] for value in values):
        return Track("constant", (0.0,), (values[0],))
    return Track("linear", tuple(places), tuple(values))


@dataclass(frozen=True)
class Latent:
    """One strength of a knob as it is perturbed: `knob` gives its free coordinate.

    Of a whole number that is the one of its bin, as in `Int.to_unit`; what comes back from there is
    kept within `low` and `high`, and rounded by whoever asks.
    """

    knob: Float
    low: float
    high: float

    def rests(self, value: float, sigma: float) -> bool:
        """Whether a value is not perturbed: its spread is zero, or it is switched off.

        Switched off means `off`, or the zero of log+0, at or beyond an end of the range: there no
        free coordinate belongs to it. Any other value on an end has the one that `to_free` gives
        it, a thousandth of the scale inside the range.
        """
        off = value == self.knob.off or (self.knob.scale == "log+0" and value == 0)
        return sigma == 0 or (off and not self.low < value < self.high)


def latent(domain: Domain) -> Latent:
    """The real-valued knob behind one with numbers."""
    if isinstance(domain, Choice):
        raise _not_a_number()
    if isinstance(domain, Float):
        return Latent(domain, domain.smallest, domain.high)
    bins = Float(domain.low - 0.5, domain.high + 0.5, domain.scale, off=domain.off)
    return Latent(bins, domain.low, domain.high)


def _checked(domain: Domain, track: Track) -> Track:
    if isinstance(domain, Choice):
        raise _not_a_number()
    if track.form not in FORMS:
        raise HpoError(
            f"form {shown(track.form)}: a spread changes in straight lines",
            hint=f"known: {', '.join(FORMS)}",
            code="bad-schedule",
            found=track.form,
            path=("form",),
        )
    track = replace(track, values=tuple(_settled(domain, value) for value in track.values))
    check_track(Float(0.0, MOST, size=domain.size), track)  # knots and options
    return track


def _settled(domain: Float | Int, value: object) -> Sigma:
    """One number as a float, for a vector one for each strength; a single one serves them all."""
    if domain.size is None:
        return _sigma(value)
    if not isinstance(value, tuple | list):
        return (_sigma(value),) * domain.size
    if len(value) != domain.size:
        raise HpoError(
            f"spread {shown(value)} has {len(value)} numbers, this knob has {domain.size}",
            hint="give a single number, it serves every strength",
            code="bad-schedule",
            found=value,
            path=("values",),
        )
    return tuple(_sigma(entry) for entry in value)


def _sigma(value: object) -> float:
    sigma = number("spread", value)
    if not 0 <= sigma <= MOST:
        raise HpoError(
            f"spread {shown(value)} lies outside 0..{MOST:g}",
            hint="a spread is a standard deviation in the free coordinate of its knob",
            code="bad-schedule",
            found=value,
            path=("values",),
        )
    return sigma


def _not_a_number() -> HpoError:
    return HpoError(
        "a choice has no spread: only knobs with numbers are perturbed",
        hint="remove it from the spreads",
        code="bad-schedule",
    )
