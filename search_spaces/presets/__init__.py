"""Named search spaces: what a study may write after `space:` instead of a list of knobs.

A file NAME.yaml of this folder is one of them, in the words of a study file. The comment it begins
with says what it is for, its first line in short.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from search_spaces._numbers import shown
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown

_ENDING = ".yaml"


@cache
def names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    found = (file.name for file in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_ENDING) for name in found if name.endswith(_ENDING)))


@cache
def text(name: str) -> str:
    """The file of a preset, as it can be copied below `space:`. HpoError for an unknown name."""
    if name not in names():
        hint = f"known: {', '.join(names())}   (hpo list spaces)"
        raise unknown("space", name, names(), hint=hint)
    return files(__name__).joinpath(name + _ENDING).read_text(encoding="utf-8")


def about(name: str) -> str:
    """What a preset is for: the first line of its comment."""
    return text(name).partition("\n")[0].removeprefix("#").strip()


def load(name: str) -> dict[str, Any]:
    """The knobs of a preset and what is said about each. HpoError for an unknown name."""
    from ruamel.yaml import YAML  # not when the command line starts

    knobs = YAML(typ="safe", pure=True).load(text(name))
    return {str(knob): said for knob, said in knobs.items()}


def resolve(data: object) -> dict[str, Any]:
    """Knobs and what is said about each, from a name, a list of knobs, or a mapping.

    A name is that of a preset, of a knob, or of a file of the catalogue, which means its knobs.
    """
    if isinstance(data, str):
        return _named(data)
    if isinstance(data, list | tuple):
        for index, name in enumerate(data):
            if not isinstance(name, str):
                raise HpoError(
                    f"{shown(name)} is not the name of a knob",
                    hint="for example space: [weight_decay, dropout]",
                    code="bad-type",
                    path=(index,),
                )
        return dict.fromkeys(data)
    if not isinstance(data, Mapping):
        raise HpoError(
            f"space {shown(data)} is neither a preset nor a mapping of knobs",
            hint=f"for example space: regularization; known presets: {', '.join(names())}",
            code="bad-type",
            found=data,
        )
    return {str(name): value for name, value in data.items()}


def _named(name: str) -> dict[str, Any]:
    if name in names():
        return load(name)
    from search_spaces import catalogue

    if name in catalogue.names():
        knobs = catalogue.load(name).knobs
        return dict.fromkeys([name] if name in knobs else knobs)
    if name in catalogue.knobs():
        return {name: None}
    known = [*names(), *catalogue.knobs()]
    hint = f"known: {', '.join(names())}   (hpo list spaces); or the name of a knob"
    raise unknown("space", name, known, hint=hint)
