"""How the schedule of a knob is searched: the shape of the curve and where its knots lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, TypeAlias, cast

from search_spaces._numbers import number, shown, whole
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

Kind: TypeAlias = Literal[
    "constant", "steps", "stages", "linear", "ramp", "exponential", "cosine", "cosine_power",
    "cyclical", "cubic",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "constant", "steps", "stages", "linear", "ramp", "exponential", "cosine", "cosine_power",
    "cyclical", "cubic",
)  # fmt: skip
# The curves of tracks: a stage is a step and a ramp a line, at places of their own.
CURVES = (
    "constant", "steps", "linear", "exponential", "cosine", "cosine_power", "cyclical", "sine",
    "cubic",
)  # fmt: skip
SWINGING = ("cyclical", "sine")
WAVES = ("triangle", "sine")
WAYS = ("rising", "falling")
KEYS = ("kind", "knots", "power", "cycles", "wave", "monotone", "at")
MOST_KNOTS = 64
MOST_CYCLES = 1000


@dataclass(frozen=True)
class Form:
    """The shape of a searched schedule; its knots become coordinates of the search.

    Between neighbouring knots, which lie evenly, the curve holds (`steps`), runs straight
    (`linear`), straight on a logarithmic axis whatever the scale of the knob (`exponential`), or
    eases: with c = (1 + cos(pi t)) / 2 as `cosine`, with (p^(1+c) - p) / (p^2 - p) as
    `cosine_power` (p = `power`; p = 1 is the cosine), or as a monotone cubic through all knots
    (`cubic`).

    `ramp` runs straight from a first value to a second one, and holds that; `stages` holds as many
    values as there are `knots`, one after another. `at` says when the second value is reached, or
    when each later stage begins; without it these places are searched too. A stage that would end
    before it begins is left out.

    `cyclical` swings `cycles` times between two values, from the first and back to it, in straight
    lines or as a cosine does (`wave`: triangle or sine).

    `monotone` (rising or falling): a knot beyond which an earlier one already went counts as it.
    """

    kind: Kind = "constant"
    knots: int = 2
    power: float = 10.0
    cycles: int = 3
    wave: str = "triangle"
    monotone: str | None = None
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _known("schedule kind", "kind", self.kind, KINDS)
        _known("wave", "wave", self.wave, WAVES)
        if self.monotone is not None:
            _known("way", "monotone", self.monotone, WAYS)
        object.__setattr__(self, "knots", _between("knots", self.knots, 2, MOST_KNOTS))
        object.__setattr__(self, "cycles", _between("cycles", self.cycles, 1, MOST_CYCLES))
        object.__setattr__(self, "power", number("power", self.power))
        check_power(self.power)
        object.__setattr__(self, "at", _places(self.at))
        _check_knots(self)
        _check_monotone(self)

    @property
    def curve(self) -> str:
        """The form of its tracks, one of CURVES."""
        if self.kind == "cyclical" and self.wave == "sine":
            return "sine"
        return {"ramp": "linear", "stages": "steps"}.get(self.kind, self.kind)

    @property
    def labels(self) -> tuple[str, ...]:
        """What its knots are called in the names of coordinates."""
        if self.waits:
            stages = tuple(f"stage{index + 1}" for index in range(self.knots))
            return ("start", "end") if self.kind == "ramp" else stages
        return tuple(f"{place:.4g}" for place in self.progress())

    @property
    def waits(self) -> dict[str, float]:
        """The searched places by the names of their coordinates, and where they start."""
        if self.at or self.kind not in ("ramp", "stages"):
            return {}
        if self.kind == "ramp":
            return {"until": 0.5}
        return {f"until{index}": index / self.knots for index in range(1, self.knots)}

    def progress(self, waits: Sequence[float] = ()) -> tuple[float, ...]:
        """Where the knots lie, in [0, 1], given the searched places; later ones never earlier."""
        if self.kind == "constant":
            return (0.0,)
        if self.kind == "cyclical":
            return (0.0, 0.5 / self.cycles)
        if self.kind in ("ramp", "stages"):
            return (0.0, *accumulate(waits or self.at or self.waits.values(), max))
        gaps = self.knots if self.kind == "steps" else self.knots - 1
        return tuple(index / gaps for index in range(self.knots))

    def options(self) -> dict[str, float]:
        """The numbers beside the knots that the curve depends on."""
        if self.kind == "cosine_power":
            return {"power": self.power}
        return {"cycles": self.cycles} if self.kind == "cyclical" else {}

    def spec(self) -> dict[str, Any]:
        """Plain data with the keys of a study file: what this kind uses, or what was changed."""
        used = {"knots"} if self.kind not in ("constant", "cyclical", "ramp") else set()
        used |= self.options().keys()
        changed = {key for key in KEYS[1:] if getattr(self, key) != getattr(Form(), key)}
        data = {key: getattr(self, key) for key in KEYS[1:] if key in used | changed}
        if self.at:
            data["at"] = self.at[0] if self.kind == "ramp" else list(self.at)
        return {"kind": self.kind} | data


def _known(what: str, key: str, word: object, words: Sequence[str]) -> None:
    if word not in words:
        raise unknown(what, word, words, hint=f"known: {', '.join(words)}", path=(key,))


def _places(given: object) -> tuple[float, ...]:
    """The places of `at`: one number, or several that rise, inside the training."""
    listed = given if isinstance(given, list | tuple) else (given,)
    places = tuple(number("at", place) for place in listed)
    rising = all(first < last for first, last in pairwise(places))
    if not rising or not all(0 < place <= 1 for place in places):
        raise _bad(
            "at",
            f"schedule at {shown(given)}: places rise from above 0 to 1, the whole training",
            "for example {kind: ramp, at: 0.3} or {kind: stages, at: [0.2, 0.6]}",
        )
    return places


def _check_knots(form: Form) -> None:
    if form.kind in ("cyclical", "ramp") and form.knots != 2:
        raise _bad(
            "knots",
            f"knots {form.knots} with kind {form.kind}: it has exactly 2 values",
            "leave knots out; cycles says how often it swings"
            if form.kind == "cyclical"
            else "leave knots out; kind stages or linear has more",
        )
    if not form.at:
        return
    if form.kind not in ("ramp", "stages"):
        raise _bad("at", f"at with kind {form.kind}", "it goes with kind ramp and kind stages")
    if form.kind == "ramp" and len(form.at) > 1:
        raise _bad("at", f"at has {len(form.at)} places, a ramp one", "kind stages has several")
    if form.kind == "ramp":
        return
    if form.knots not in (2, len(form.at) + 1) or form.at[-1] == 1:
        raise _bad(
            "at",
            f"at has {len(form.at)} places for {form.knots} stages",
            "a place for each stage but the first, before 1; knots may be left out",
        )
    object.__setattr__(form, "knots", len(form.at) + 1)


def _check_monotone(form: Form) -> None:
    if form.monotone is not None and form.kind in ("constant", "cyclical"):
        raise _bad(
            "monotone",
            f"monotone: {form.monotone} with kind {form.kind}, which goes no way alone",
            "use it with the other kinds",
        )


def _bad(key: str, message: str, hint: str) -> HpoError:
    return HpoError(message, hint=hint, code="bad-schedule", path=(key,))


def check_power(power: float) -> None:
    """Refuses a power for which the cosine-power curve has no value."""
    if not 1e-6 <= power <= 1e6:
        hint = "1 is the plain cosine, 10 falls early"
        raise _bad("power", f"power {shown(power)} lies outside 1e-06..1e+06", hint)


def parse_form(data: object) -> Form:
    """The form that a study file asks for: a kind, or a mapping with kind, knots, and so on."""
    if isinstance(data, Form):
        return data
    if isinstance(data, str):
        return Form(cast(Kind, data))
    if not isinstance(data, Mapping):
        raise HpoError(
            f"schedule {shown(data)} is neither a kind nor a mapping",
            hint="for example schedule: cosine, or schedule: {kind: cubic, knots: 4}",
            code="bad-type",
            found=data,
        )
    for key in data:
        if key not in KEYS:
            raise unknown("key", key, KEYS, hint=f"known: {', '.join(KEYS)}", path=(str(key),))
    if "kind" not in data:
        raise HpoError(
            "schedule without a kind", hint=f"known kinds: {', '.join(KINDS)}", code="bad-schedule"
        )
    return Form(**data)


def ease(kind: str, power: float, part: float) -> float:
    """How far a curve has moved from one knot (0) to the next (1) after this part of the way."""
    if kind == "steps":
        return 0.0
    if kind in ("cosine", "cosine_power", "sine"):
        c = (1 + math.cos(math.pi * part)) / 2
        if kind != "cosine_power" or abs(power - 1) < 1e-9:
            return 1 - c
        lifted: float = power ** (1 + c)
        return 1 - (lifted - power) / (power**2 - power)
    return part


def _between(key: str, value: object, least: int, most: int) -> int:
    result = whole(key, value)
    if not least <= result <= most:
        raise _bad(
            key,
            f"schedule {key} {result} lies outside {least}..{most}",
            f"for example {key}: {max(least, 3)}",
        )
    return result
