"""A path through a search space over training: what every method here finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from search_spaces import _schedule_json, _spread
from search_spaces._checks import check_fixed
from search_spaces._curve import Curve, check_track, curve, value_at
from search_spaces._curve import Track as Track
from search_spaces._form import SWINGING
from search_spaces._numbers import number
from search_spaces._spread import Sigma, SpreadPoint
from search_spaces.domains import Choice, Domain, Float, Point, Value
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown
from search_spaces.space import SearchSpace, resting


@dataclass(frozen=True)
class Schedule:
    """The value of every knob of a space at every progress from 0 (start) to 1 (end).

    `spreads` belong to a schedule that was found under perturbed knobs, and only to knobs with
    numbers: value = from_free(to_free(value) + sigma * eps), eps ~ N(0, 1), with the standard
    deviation sigma in straight lines over progress (forms constant and linear), a tuple for a
    vector knob. The values themselves, and what is said of them (`at`, `moving`, `knots`, `table`,
    `distance`), are the nominal ones, without the perturbation.
    """

    space: SearchSpace
    tracks: Mapping[str, Track] = field(hash=False)
    spreads: Mapping[str, Track] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in self.tracks:
            if name not in self.space:
                raise unknown("knob", name, self.space, path=("tracks", name))
        for name in self.space:
            if name not in self.tracks:
                raise HpoError(
                    f"knob {name} has no track",
                    hint="every knob of the space needs one",
                    code="bad-schedule",
                    path=("tracks",),
                )
        tracks = {name: _checked(name, one, self.tracks[name]) for name, one in self.space.items()}
        object.__setattr__(self, "tracks", tracks)
        object.__setattr__(self, "spreads", _spread.checked(self.space, self.spreads))

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """The tracks, made ready to be followed."""
        return {name: curve(domain, self.tracks[name]) for name, domain in self.space.items()}

    @cached_property
    def _last_change(self) -> float:
        return max((_last_change(track) for track in self.tracks.values()), default=0.0)

    def at(self, progress: float) -> dict[str, Value]:
        """The value of every knob at this progress; beyond 0 and 1 the ends hold.

        Between knots the curve is drawn in unit coordinates, so that it keeps the range and the
        scale of its knob; whole numbers are rounded, choices change in steps.
        """
        progress = min(max(progress, 0.0), 1.0)
        return {name: value_at(one, progress) for name, one in self.curves.items()}

    def spread_at(self, progress: float) -> dict[str, Sigma]:
        """The spread at this progress of every knob that has one; the others are not named."""
        progress = min(max(progress, 0.0), 1.0)
        return {name: _spread.sigma_at(track, progress) for name, track in self.spreads.items()}

    def expected(self) -> Schedule:
        """The schedule of mean values under the perturbation, E[from_free(to_free(v) + sigma eps)].

        The mean is taken at every knot of a value or its spread, and between them until straight
        lines follow it within 1e-3 of the range (whole numbers: at knots only), by Gauss-Hermite
        quadrature with 32 nodes: in error by less than 1e-3 of the range up to sigma 2, 1e-2 up
        to sigma 4. That of a whole number is taken before rounding, then rounded.

        A value whose spread is zero stays as it is, and so does one that is switched off (`off` at
        or beyond an end of the range, the zero of log+0). Any other value on an end counts as
        `to_free` takes it, a thousandth of the scale inside. The result has no spreads.
        """
        from search_spaces._perturbation import expected  # numpy stays out of the start-up

        return expected(self)

    def band(self, progress: float, reach: float = 1.0) -> dict[str, tuple[Value, Value]]:
        """From where to where each knob with a spread is perturbed: `reach` sigma to both sides.

        Whole numbers are not rounded here.
        """
        from search_spaces._perturbation import band

        return band(self, progress, reach)

    def moving(self, progress: float) -> bool:
        """Whether some knob still changes after this progress.

        Only values count: early stopping waits for this, and a run is not held up by a spread that
        shrinks to the end, as spreads do.
        """
        return progress < self._last_change

    def knots(self) -> list[float]:
        """Every progress at which a curve has a knot, sorted; [0.0] when all knobs are constant."""
        curves = [track for track in self.tracks.values() if track.form != "constant"]
        return sorted({place for track in curves for place in track.progress}) or [0.0]

    def thin(self, knots: int = 8, tolerance: float = 0.0) -> tuple[Schedule, float]:
        """A schedule with at most this many knots, common to all tracks, and its deviation.

        Knots are added where the deviation is largest until it is at most `tolerance`. The
        deviation is the largest difference at any progress, in unit coordinates (a share of each
        range): exact for tracks in straight lines or steps, found on a fine grid for curves. For
        whole numbers, and for log+0 near zero, it includes the rounding.

        Spreads are kept, on the same knots, but their deviation does not count; where the values
        need one knot only and a spread changes, both ends are kept if `knots` allows it.
        """
        from search_spaces._thin import thin  # numpy stays out of the start-up

        return thin(self, knots, tolerance)

    def distance(self, other: Schedule) -> float:
        """The mean difference of the two over training and knobs, as a share of each range.

        0 for equal paths, 1 for paths along opposite ends; both must have the same knobs. Of
        schedules with spreads it compares the values only, unless `expected` is taken first.
        """
        from search_spaces._thin import distance

        return distance(self, other)

    def pin(self, domains: Mapping[str, Domain], point: Mapping[str, Value]) -> Schedule:
        """The schedule with further knobs, each held constant at the value of the point.

        A value outside the range of its domain is fine, it was fixed and not searched; one that
        has no meaning for the knob is not. A knob that is held has no spread.
        """
        held = {name: _holding(name, domains.get(name), value) for name, value in point.items()}
        tracks = {name: _still(held[name].settle(value)) for name, value in point.items()}
        free = {name: domain for name, domain in self.space.items() if name not in held}
        spreads = {name: track for name, track in self.spreads.items() if name not in held}
        return Schedule(SearchSpace(free | held), {**self.tracks, **tracks}, spreads)

    def table(self, rows: int | Sequence[float] = 11) -> list[tuple[float, dict[str, Value]]]:
        """Progress and point of evenly spaced rows, or of the given places in [0, 1]."""
        if isinstance(rows, int):
            rows = [index / max(rows - 1, 1) for index in range(rows)]
        return [(place, self.at(place)) for place in rows]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back without loss; the format is versioned."""
        return _schedule_json.write(self.space.spec(), self.tracks, self.spreads)

    @staticmethod
    def from_json(data: object) -> Schedule:
        """The schedule that `to_json` wrote; an error for anything else."""
        return Schedule(*_schedule_json.read(data))

    @staticmethod
    def constant(space: SearchSpace, point: Point) -> Schedule:
        """The same point throughout; knobs that the point leaves out have their start value."""
        for name in point:
            if name not in space:
                raise unknown("knob", name, space, hint=f"known: {', '.join(space)}", path=(name,))
        complete = {**space.start, **point}
        return Schedule(
            space, {name: _still(domain.settle(complete[name])) for name, domain in space.items()}
        )

    @staticmethod
    def recorded(
        space: SearchSpace,
        rows: Iterable[tuple[float, Point] | tuple[float, Point, SpreadPoint]],
    ) -> Schedule:
        """The path through recorded points: straight in unit coordinates, choices in steps.

        A row is progress and point, and the spreads of the perturbed knobs where there are any.
        Rows are sorted by progress; of two at the same progress the later one counts. A knob that
        a row does not name keeps out of that row; one that no row names rests, without a spread.
        """
        by_progress = {number("progress", row[0]): row[1:] for row in rows}
        points = {place: row[0] for place, row in by_progress.items()}
        spreads = {place: row[1] if len(row) > 1 else {} for place, row in by_progress.items()}
        tracks = {name: _recorded(name, domain, points) for name, domain in space.items()}
        return Schedule(space, tracks, _spread.recorded(spreads))


def _recorded(name: str, domain: Domain, points: Mapping[float, Point]) -> Track:
    """The track through the points that name this knob."""
    places = [place for place in sorted(points) if name in points[place]]
    values = tuple(domain.settle(points[place][name]) for place in places)
    if all(value == values[0] for value in values):
        return _still(values[0] if values else domain.settle(resting(domain)))
    return Track("steps" if isinstance(domain, Choice) else "linear", tuple(places), values)


def _checked(name: str, domain: Domain, track: Track) -> Track:
    """The track with its values as the domain stores them."""
    try:
        track = replace(track, values=tuple(domain.settle(value) for value in track.values))
        check_track(domain, track)
    except HpoError as error:
        raise error.under("tracks", name) from None
    return track


def _still(value: Value) -> Track:
    return Track("constant", (0.0,), (value,))


def _last_change(track: Track) -> float:
    """The progress from which the knob keeps its value."""
    pairs = zip(track.progress[1:], track.values, track.values[1:], strict=False)
    changes = [place for place, before, after in pairs if before != after]
    return 1.0 if changes and track.form in SWINGING else max(changes, default=0.0)


def _holding(name: str, domain: Domain | None, value: Value) -> Domain:
    """A domain that contains the value: the given one, or one for this value alone."""
    try:
        if domain is not None:
            bare = replace(domain, when={})
            if bare.contains(bare.settle(value)):
                return bare
            check_fixed(bare, value)
        if not isinstance(value, tuple):
            return Choice((value,))
        low, high = min(value), max(value)
        return Float(low, high if high > low else low + abs(low) + 1, size=len(value))
    except HpoError as error:
        raise error.under(name) from None
