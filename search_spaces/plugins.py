"""A public file in a plug-in folder is one plug-in, and the file name is its name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Sequence

from search_spaces.errors import HpoError


def names(package: str) -> list[str]:
    """The plug-ins of a package folder: its public modules, sorted; nothing in them is run."""
    folder = importlib.import_module(package).__path__
    return sorted(
        module.name
        for module in pkgutil.iter_modules(folder)
        if not module.ispkg and not module.name.startswith("_")
    )


def load(package: str, name: str, attribute: str) -> object:
    """What the plug-in file `name` offers under `attribute`, for instance its REGULARIZER."""
    known = names(package)
    kind = package.rpartition(".")[2].removesuffix("s")
    if name not in known:
        raise unknown(kind, name, known, hint=f"known: {', '.join(known)}")
    module = importlib.import_module(f"{package}.{name}")
    if not hasattr(module, attribute):
        raise HpoError(
            f"{kind} {name}: {module.__file__} has no {attribute}",
            hint=f"a file in {package.replace('.', '/')}/ defines {attribute}; "
            "start the file name with _ if it is not a plug-in",
            code="bad-plugin",
        )
    return getattr(module, attribute)


def closest(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant, or None when nothing is near."""
    lowered = {candidate.lower(): candidate for candidate in words}
    found = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown(
    kind: str,
    word: object,
    known: Iterable[str],
    *,
    hint: str = "",
    path: Sequence[str | int] = (),
) -> HpoError:
    """The error for a word that is not among the known ones, with the likely spelling."""
    suggest = closest(str(word), known)
    ending = f", did you mean {suggest!r}?" if suggest else ""
    return HpoError(
        f"unknown {kind} {str(word)!r}{ending}",
        hint=hint,
        code=f"unknown-{kind.replace(' ', '-')}",
        found=word,
        suggest=suggest,
        path=path,
    )
