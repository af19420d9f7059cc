"""What the fields of a domain must fulfil, each with the message a user gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search_spaces._form import parse_form
from search_spaces._numbers import number, shown, whole
from search_spaces._scales import check_range
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from search_spaces.domains import Choice, Domain, Float, Int, Scalar, When

MOST_STRENGTHS = 1_000_000
MOST_OPTIONS = 10_000


def strength(value: object) -> float:
    """One strength as a float; the integer of an integer knob included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return number("value", value)  # raises, and says why
    return float(value)


def ends(domain: Float) -> None:
    """Turns the numbers of a float knob into floats and checks its size."""
    for key in ("low", "high"):
        object.__setattr__(domain, key, number(key, getattr(domain, key)))
    if domain.off is not None:
        object.__setattr__(domain, "off", number("off", domain.off))
    if domain.size is None:
        return
    size = whole("size", domain.size)
    if not 1 <= size <= MOST_STRENGTHS:
        raise HpoError(
            f"size {size} lies outside 1..{MOST_STRENGTHS}",
            hint="size is the number of strengths of the knob, such as one for each layer",
            code="bad-range",
            path=("size",),
        )
    object.__setattr__(domain, "size", size)


def conditions(domain: Float | Int) -> None:
    """Turns `when` and `schedule` into their records, from the short forms of a study file."""
    object.__setattr__(domain, "when", when(domain.when))
    if domain.schedule is not None:
        try:
            object.__setattr__(domain, "schedule", parse_form(domain.schedule))
        except HpoError as error:
            raise error.under("schedule") from None


def float_start(domain: Float) -> None:
    """Checks the start of a float knob: one number, or one for each strength of a vector."""
    start = domain.start
    if start is None:
        return
    if isinstance(start, list | tuple):
        if domain.size != len(start):
            due = "one number" if domain.size is None else f"{domain.size} numbers"
            raise HpoError(
                f"start has {len(start)} numbers, this knob has {due}",
                hint="give a single number, it serves every strength",
                code="bad-start",
                path=("start",),
            )
        numbers = tuple(number("start", entry) for entry in start)
        for entry in numbers:
            inside_number(domain, entry)
        object.__setattr__(domain, "start", numbers)
        return
    object.__setattr__(domain, "start", number("start", start))
    inside_number(domain, domain.start)


def int_range(domain: Int) -> None:
    """Refuses a range of whole numbers that is empty or that its scale cannot hold."""
    if domain.scale == "log" and domain.low < 1:
        raise HpoError(
            f"low {domain.low} with scale int log: the least possible is 1",
            hint="use scale: int, or low: 1",
            code="bad-range",
            path=("low",),
        )
    check_range("linear", domain.low, domain.high)


def inside_number(domain: Float, value: object) -> None:
    """Refuses a start that one strength of the knob cannot have."""
    if not domain.contains_number(value):
        raise outside(domain, "start", value)


def inside(domain: Domain, key: str, value: Scalar) -> None:
    """Refuses a value that the knob cannot have; None passes where it means "not given"."""
    if value is not None and not domain.contains(value):
        raise outside(domain, key, value)


def outside(domain: Domain, key: str, value: object) -> HpoError:
    """The error for a value that the knob cannot have."""
    return HpoError(
        f"{key} {shown(value)} {_where(domain, value)}",
        hint="widen the range, or move the value into it"
        if not hasattr(domain, "options")
        else "add it to the options, or use one of them",
        code=f"bad-{key}",
        found=value,
        path=(key,),
    )


def _where(domain: Domain, value: object) -> str:
    options = getattr(domain, "options", None)
    if options is not None:
        listed = ", ".join(shown(option) for option in options[:8])
        return f"is not among the options {listed}{', ...' if len(options) > 8 else ''}"
    low, high = shown(getattr(domain, "low", None)), shown(getattr(domain, "high", None))
    smallest = getattr(domain, "smallest", 0.0)
    if isinstance(value, int | float) and 0 < value < smallest and domain.off != smallest:
        return f"lies between 0 and the smallest value {shown(smallest)} of {low}..{high}"
    return f"lies outside {low}..{high}"


def limits(domain: Float | Int) -> None:
    """Refuses values that have no meaning for this knob, such as a dropout rate above 1."""
    starts = domain.start if isinstance(domain.start, tuple) else (domain.start,)
    named = [("low", domain.low), ("high", domain.high), ("off", domain.off)]
    for key, value in [*named, *(("start", start) for start in starts)]:
        if value is not None:
            _limit(domain, key, value)


def _limit(domain: Float | Int, key: str, value: float) -> None:
    least, most = domain.limits
    if not least <= value <= most:
        far = f"at least {shown(least)}" if value < least else f"at most {shown(most)}"
        raise HpoError(
            f"{key} {shown(value)} is impossible for this knob: it must be {far}",
            code="bad-range",
            found=value,
            path=(key,),
        )


def check_fixed(domain: Domain, value: object) -> None:
    """Refuses a value the knob could not be held at, whatever its range says."""
    if hasattr(domain, "options"):
        raise outside(domain, "value", value)
    size = domain.size
    if (size is not None) != isinstance(value, list | tuple) or (
        isinstance(value, list | tuple) and len(value) != size
    ):
        due = "one number" if size is None else f"{size} numbers"
        raise HpoError(f"value {shown(value)}: this knob has {due}", code="bad-value", found=value)
    for entry in value if isinstance(value, list | tuple) else (value,):
        check = number if hasattr(domain, "smallest") else whole
        _limit(domain, "value", check("value", entry))


def options(given: object) -> tuple[Scalar, ...]:
    """The options of a choice: at least one, all plain values, no two alike."""
    if not isinstance(given, list | tuple):
        raise HpoError(
            f"options {shown(given)} is not a list",
            hint="for example options: [sgd, adamw]",
            code="bad-type",
            path=("options",),
        )
    if not given:
        raise HpoError(
            "options is empty: a choice needs at least one",
            hint="for example options: [sgd, adamw]",
            code="bad-options",
            path=("options",),
        )
    if len(given) > MOST_OPTIONS:
        raise HpoError(
            f"{len(given)} options: at most {MOST_OPTIONS} are possible",
            hint="use a range with low and high",
            code="bad-options",
            path=("options",),
        )
    return _distinct(tuple(_plain(option) for option in given))


def _distinct(given: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    seen: set[tuple[bool, Scalar]] = set()
    for option in given:
        key = (isinstance(option, bool), option)
        if key in seen:
            raise HpoError(
                f"option {shown(option)} is there twice",
                hint="each option once; more weight for one of them is not possible",
                code="bad-options",
                found=option,
                path=("options",),
            )
        seen.add(key)
    return given


def _plain(option: object) -> Scalar:
    if option is None or isinstance(option, bool | str):
        return option
    if isinstance(option, int | float):
        number("options", option)
        return option
    raise HpoError(
        f"option {shown(option)} is not a plain value",
        hint="options are text, numbers, true, false or null",
        code="bad-type",
        path=("options",),
    )


def same(value: object, option: object) -> bool:
    """Whether a value is this option: 1 and 1.0 are the same, 1 and true are not."""
    return isinstance(value, bool) == isinstance(option, bool) and value == option


def when(given: object) -> When:
    """The condition as a mapping from knob to the values that switch this one on."""
    if not isinstance(given, Mapping):
        raise HpoError(
            f"when {shown(given)} is not a mapping",
            hint="for example when: {optimizer: [sgd, momentum]}",
            code="bad-when",
            path=("when",),
        )
    result: dict[str, tuple[Scalar, ...]] = {}
    for name, allowed in given.items():
        values = tuple(allowed) if isinstance(allowed, list | tuple) else (allowed,)
        try:
            result[str(name)] = options(values)
        except HpoError as error:
            error.path = ("when", str(name))
            raise
    return result


def extras(domain: Float | Int | Choice) -> dict[str, Any]:
    """The keys of a study file that are written only where they say something."""
    data: dict[str, Any] = {}
    for key in ("start", "size", "off"):
        value = getattr(domain, key)
        if value is not None:
            data[key] = list(value) if isinstance(value, tuple) else value
    if domain.schedule is not None:
        data["schedule"] = domain.schedule.spec()
    if domain.when:
        data["when"] = {
            name: allowed[0] if len(allowed) == 1 else list(allowed)
            for name, allowed in domain.when.items()
        }
    return data
