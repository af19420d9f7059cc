"""A study's spec from SPEC, `--set` and the other options of a command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from hpo.document import Document
from hpo.errors import HpoError
from hpo.masking import without_password
from hpo.overrides import Override, located, override
from hpo.spec import StudySpec, parse
from hpo.yamlfile import LARGEST_FILE, load

# Options of the command line and the key of the spec each sets.
KEYS: Mapping[str, tuple[str, ...]] = {
    "name": ("name",),
    "objective": ("objective",),
    "space": ("space",),
    "sampler": ("sampler",),
    "engine": ("engine",),
    "workers": ("workers",),
    "pack": ("pack",),
    "gpus_per_trial": ("gpus_per_trial",),
    "trials": ("budget", "trials"),
    "steps": ("budget", "steps"),
    "time": ("budget", "time"),
    "plateau": ("budget", "plateau"),
    "prune": ("prune",),
    "seed": ("seed",),
    "seeds": ("seeds",),
    "storage": ("storage",),
    "tracking_uri": ("tracking_uri",),
    "ray_address": ("ray", "address"),
}


class Given:
    """What the command line says about a study: a document, and values laid over it."""

    def __init__(self, document: Document, overrides: list[Override]) -> None:
        self.document, self.overrides = document, overrides

    def spec(self) -> StudySpec:
        """The checked spec. Raises SpecError with the place of the mistake."""
        return parse(self.document, self.overrides)

    def placed(self, error: HpoError) -> HpoError:
        """An error found later (an unknown knob, say) with its place in what was given."""
        return located(error, self.document, self.overrides)


def given(source: str | None, sets: tuple[str, ...], options: Mapping[str, Any]) -> Given:
    """Reads SPEC (a path, `-` for stdin, None for the quickstart) and the options."""
    return Given(_document(source, options), overrides(sets, options))


def overrides(sets: tuple[str, ...], options: Mapping[str, Any]) -> list[Override]:
    """What the options set, then what each --set says: it is the more exact of the two."""
    by_name = [
        Override(path, options[key], f"--{key.replace('_', '-')} {_written(options[key])}")
        for key, path in KEYS.items()
        if options.get(key) is not None
    ]
    return [*by_name, *(override(text) for text in sets)]


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else without_password(str(value))


def _document(source: str | None, options: Mapping[str, Any]) -> Document:
    if source == "-":
        return load("-", sys.stdin.buffer.read(4 * LARGEST_FILE + 1))
    if source is not None:
        return load(Path(source))
    if options.get("objective") is not None:
        return Document("", "", {})
    return quickstart()


def quickstart() -> Document:
    """The packaged study that `hpo run` runs when it is told nothing."""
    text = (files("hpo") / "specs" / "quickstart.yaml").read_text(encoding="utf-8")
    return load("quickstart.yaml", text)
