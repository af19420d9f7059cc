"""How the schedule of a knob is searched: the shape of the curve and where its knots lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from search_spaces._numbers import number, shown, whole
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

Kind: TypeAlias = Literal[
    "constant", "steps", "linear", "cosine", "cosine_power", "cyclical", "cubic"
]
KINDS: tuple[Kind, ...] = (
    "constant", "steps", "linear", "cosine", "cosine_power", "cyclical", "cubic",
)  # fmt: skip
KEYS = ("kind", "knots", "power", "cycles")
MOST_KNOTS = 64
MOST_CYCLES = 1000


@dataclass(frozen=True)
class Form:
    """The shape of a searched schedule; its knots become coordinates of the search.

    Between neighbouring knots the curve holds (`steps`), runs straight (`linear`), or eases:
    with c = (1 + cos(pi t)) / 2 as `cosine`, with (p^(1+c) - p) / (p^2 - p) as `cosine_power`
    (p = `power`; p = 1 is the cosine), or as a monotone cubic through all knots (`cubic`).
    `cyclical` swings `cycles` times between two values, in straight lines, from the first value
    and back to it.
    """

    kind: Kind = "constant"
    knots: int = 2
    power: float = 10.0
    cycles: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            known = f"known: {', '.join(KINDS)}"
            raise unknown("schedule kind", self.kind, KINDS, hint=known, path=("kind",))
        object.__setattr__(self, "knots", _between("knots", self.knots, 2, MOST_KNOTS))
        object.__setattr__(self, "cycles", _between("cycles", self.cycles, 1, MOST_CYCLES))
        object.__setattr__(self, "power", number("power", self.power))
        check_power(self.power)
        if self.kind == "cyclical" and self.knots != 2:
            raise HpoError(
                f"knots {self.knots} with kind cyclical: it swings between exactly 2 values",
                hint="leave knots out; cycles says how often it swings",
                code="bad-schedule",
                path=("knots",),
            )

    def progress(self) -> tuple[float, ...]:
        """Where the knots lie, in [0, 1]."""
        if self.kind == "constant":
            return (0.0,)
        if self.kind == "cyclical":
            return (0.0, 0.5 / self.cycles)
        gaps = self.knots if self.kind == "steps" else self.knots - 1
        return tuple(index / gaps for index in range(self.knots))

    def options(self) -> dict[str, float]:
        """The numbers beside the knots that the curve depends on."""
        if self.kind == "cosine_power":
            return {"power": self.power}
        return {"cycles": self.cycles} if self.kind == "cyclical" else {}

    def spec(self) -> dict[str, Any]:
        """Plain data with the keys of a study file: what this kind uses, or what was changed."""
        used = {"knots"} if self.kind not in ("constant", "cyclical") else set()
        used |= self.options().keys()
        changed = {key for key in KEYS[1:] if getattr(self, key) != getattr(Form(), key)}
        return {"kind": self.kind} | {
            key: getattr(self, key) for key in KEYS[1:] if key in used | changed
        }


def check_power(power: float) -> None:
    """Refuses a power for which the cosine-power curve has no value."""
    if not 1e-6 <= power <= 1e6:
        raise HpoError(
            f"power {shown(power)} lies outside 1e-06..1e+06",
            hint="1 is the plain cosine, 10 falls early",
            code="bad-schedule",
            path=("power",),
        )


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
    if kind == "cosine" or kind == "cosine_power":
        c = (1 + math.cos(math.pi * part)) / 2
        if kind == "cosine" or abs(power - 1) < 1e-9:
            return 1 - c
        lifted: float = power ** (1 + c)
        return 1 - (lifted - power) / (power**2 - power)
    return part


def _between(key: str, value: object, least: int, most: int) -> int:
    result = whole(key, value)
    if not least <= result <= most:
        raise HpoError(
            f"schedule {key} {result} lies outside {least}..{most}",
            hint=f"for example {key}: {max(least, 3)}",
            code="bad-schedule",
            path=(key,),
        )
    return result
