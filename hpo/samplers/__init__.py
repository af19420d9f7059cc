"""Samplers by name: a public file of this folder is one sampler, its file name the sampler's name.

A suggestion depends on the history, the study's seed and the trial's number only: `at_ask` builds
the sampler anew for every trial, so a resumed study proposes what the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import importlib
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hpo.samplers._options import read
from hpo.samplers._sampler import ROLE, NoOptions, Request, Sampler, Start
from search_spaces import plugins
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from search_spaces.domains import Domain, Point

__all__ = [
    "ROLE",
    "NoOptions",
    "Request",
    "Sampler",
    "Start",
    "at_ask",
    "check",
    "exhausted",
    "load",
    "names",
    "optuna_sampler",
    "parse_options",
]

ENTRY_POINTS = "hpo.samplers"


def names() -> list[str]:
    """The samplers that can be given by name: the files of this folder, and installed plug-ins."""
    return sorted({*plugins.names(__name__), *_installed()})


def load(name: str) -> Sampler:
    """The sampler called `name`: a file of this folder, an installed plug-in, or `module:attr`.

    Raises HpoError with the likely spelling if there is none.
    """
    if ":" in name:
        return _from_module(name)
    if name in plugins.names(__name__):
        return _sampler(plugins.load(__name__, name, "SAMPLER"), name)
    installed = _installed()
    if name in installed:
        return _sampler(_loaded(installed[name]), name)
    known = names()
    raise plugins.unknown(
        "sampler", name, known, hint=f"known: {', '.join(known)}", path=("sampler",)
    )


def parse_options(sampler: Sampler, options: Mapping[str, Any], name: str = "") -> Any:
    """The sampler's own record, filled from plain data; `name` is named in errors.

    Raises HpoError with path ("sampler_options", key) for an unknown option or a wrong value.
    """
    return read(sampler.options, options, f"sampler {name}".strip(), ("sampler_options",))


def check(sampler: Sampler, name: str, request: Request) -> None:
    """Raises HpoError if the sampler cannot search the space of the request."""
    refusal = _too_many(sampler, name, request)
    if refusal is None and sampler.refuse is not None:
        refusal = sampler.refuse(request)
    if refusal is not None:
        message, _, hint = refusal.partition("\n")
        raise HpoError(message, hint=hint, code="refused", found=name, path=("sampler",))


def at_ask(
    sampler: str | Sampler,
    *,
    study_seed: int,
    number: int,
    request: Request,
    final: Callable[[FrozenTrial], Point] = lambda trial: {},
) -> BaseSampler:
    """The Optuna sampler for one trial: same history, seed and number, same suggestion.

    `final` says where the knobs of an ended trial arrived; a sampler that tunes within runs asks.
    """
    sampler = load(sampler) if isinstance(sampler, str) else sampler
    from hpo.samplers._relative import Relative

    seed = study_seed if sampler.one_sequence else _derived(study_seed, number)
    proposing = sampler.propose(seed, request)
    if sampler.in_run:
        from hpo.samplers._inrun import InRun

        proposing = InRun(proposing, request, final)
    return Relative(proposing, _joint(sampler, request))


def exhausted(sampler: Sampler, study: Study, request: Request) -> bool:
    """Whether the sampler has proposed all it has (a grid does, most samplers never do)."""
    return sampler.exhausted is not None and sampler.exhausted(study, request)


def optuna_sampler(
    name: str,
    *,
    space: Mapping[str, Domain] | None = None,
    seed: int | None = None,
    **options: Any,
) -> BaseSampler:
    """A sampler by name, for `optuna.create_study(sampler=...)` in a script of one's own.

    With `space` (knobs and their domains) it is checked that the sampler can search it, knobs are
    drawn together from the first trial on, and `study.optimize` ends when a grid is exhausted.
    Without it the sampler takes parameters as the script suggests them, and goes on until
    `n_trials`. Raises HpoError for an unknown name or option, or a space that is refused.
    """
    sampler = load(name)
    request = Request(_coordinates(space), parse_options(sampler, options, name))
    check(sampler, name, request)
    from hpo.samplers._relative import Relative

    inner = sampler.propose(secrets.randbits(31) if seed is None else seed, request)
    if space is None:
        return Relative(inner)
    return Relative(
        inner, _joint(sampler, request), lambda study: exhausted(sampler, study, request)
    )


def _derived(study_seed: int, number: int) -> int:
    """32 bits that differ between neighbouring trials and between neighbouring seeds."""
    digest = hashlib.blake2b(f"{study_seed}:{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _joint(sampler: Sampler, request: Request) -> dict[str, BaseDistribution] | None:
    if sampler.joint is None or not request.coordinates:
        return None
    names = sampler.joint(request)
    if names is None:
        return None
    from hpo.samplers._suggest import distribution

    found = {name: distribution(request.coordinates[name]) for name in names}
    return {name: known for name, known in found.items() if not known.single()}


def _coordinates(space: Mapping[str, Domain] | None) -> Mapping[str, Domain]:
    if space is None:
        return {}
    from search_spaces.space import SearchSpace

    return (space if isinstance(space, SearchSpace) else SearchSpace(space)).coordinates()


def _too_many(sampler: Sampler, name: str, request: Request) -> str | None:
    """Why a space has too many coordinates for a sampler that must propose every one of them."""
    count = len(request.coordinates)
    if sampler.in_run or count <= sampler.most:
        return None
    sizes: dict[str, int] = {}
    for coordinate in request.coordinates:
        knob = coordinate.partition("@")[0].partition("[")[0]
        sizes[knob] = sizes.get(knob, 0) + 1
    largest = max(sizes, key=lambda knob: sizes[knob])
    return (
        f"sampler {name} searches at most {sampler.most} numbers, this space has {count} "
        f"({largest} alone: {sizes[largest]})\ngive {largest} fewer strengths (size) or fewer knots"
    )


def _installed() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(point: EntryPoint) -> object:
    try:
        found: object = point.load()
    except (ImportError, AttributeError) as error:
        raise HpoError(
            f"sampler {point.name}: its package cannot be loaded: {error}",
            hint=f"it is installed as {point.value}; reinstall the package, or ask its authors",
            code="bad-plugin",
            found=point.name,
            path=("sampler",),
        ) from error
    return found


def _from_module(reference: str) -> Sampler:
    module_name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise HpoError(
            f"sampler {reference}: there is no module {error.name}",
            hint="it is looked for where Python looks for modules; known by name: "
            + ", ".join(names()),
            code="unknown-sampler",
            found=reference,
            path=("sampler",),
        ) from None
    if not hasattr(module, attribute):
        raise HpoError(
            f"sampler {reference}: module {module_name} has no {attribute!r}",
            hint="the attribute is a Sampler record, often called SAMPLER",
            code="unknown-sampler",
            found=reference,
            path=("sampler",),
        )
    return _sampler(getattr(module, attribute), reference)


def _sampler(found: object, name: str) -> Sampler:
    if isinstance(found, Sampler):
        return found
    raise HpoError(
        f"sampler {name}: it is a {type(found).__name__}, not a Sampler record",
        hint="write SAMPLER = Sampler(propose=...) with hpo.samplers.Sampler",
        code="bad-plugin",
        found=name,
        path=("sampler",),
    )
