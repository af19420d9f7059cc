"""Conditions of knobs on others that a study does not search."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from hpo.errors import HpoError
from hpo.spec import StudySpec
from search_spaces.domains import Domain


def unconditional(spec: StudySpec, known: Mapping[str, Domain]) -> dict[str, Domain]:
    """The knobs that are known, those of the space without their own conditions on knobs that are
    not searched: these are fixed or at their start, so that what they decide is decided."""
    if isinstance(spec.space, str) and spec.space not in known:
        return dict(known)  # a preset names what its knobs depend on
    searched = {spec.space} if isinstance(spec.space, str) else {*spec.space}
    return {
        name: _decided(spec, name, known, searched) if name in searched else domain
        for name, domain in known.items()
    }


def _decided(
    spec: StudySpec, name: str, known: Mapping[str, Domain], searched: Collection[str]
) -> Domain:
    """The knob without conditions that hold throughout; HpoError for one that never holds."""
    domain = known[name]
    for parent, allowed in domain.when.items():
        if parent in searched or parent not in known:
            continue
        value = spec.fixed.get(parent, known[parent].start_value())
        if value not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise HpoError(
                f"{name} acts only where {parent} is {wanted}, and it is {value} here",
                hint=f"leave {name} out, or give {parent} that value under fixed:",
                code="bad-when",
                found=name,
                path=("space", name),
            )
    kept = {parent: allowed for parent, allowed in domain.when.items() if parent in searched}
    return replace(domain, when=kept) if len(kept) < len(domain.when) else domain
