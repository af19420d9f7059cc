"""The file format of a schedule: plain JSON with a version, read back without loss or surprise.

Format 1 has no spreads. A schedule that has some is written as format 2, which only adds them:
what reads format 1 alone refuses such a file and says that a newer version wrote it, instead of
replaying values that mean little without their perturbations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from search_spaces._curve import Track
from search_spaces._numbers import number, shown
from search_spaces.domains import parse
from search_spaces.errors import HpoError
from search_spaces.plugins import unknown
from search_spaces.space import SearchSpace

FORMAT = 1
FORMAT_WITH_SPREADS = 2
KIND = "hpo-schedule"
KEYS = ("format", "kind", "space", "tracks", "about")
SPREADS = "spreads"
TRACK_KEYS = ("form", "progress", "values", "options")
MOST_KNOBS = 2000


def write(
    space: Mapping[str, Any], tracks: Mapping[str, Track], spreads: Mapping[str, Track]
) -> dict[str, Any]:
    """The document of a schedule; spreads are in it only where there are any."""
    document = {
        "format": FORMAT_WITH_SPREADS if spreads else FORMAT,
        "kind": KIND,
        "space": dict(space),
        "tracks": {name: _written(track) for name, track in tracks.items()},
    }
    if spreads:
        document[SPREADS] = {name: _written(track) for name, track in spreads.items()}
    return document


def _written(track: Track) -> dict[str, Any]:
    values = [list(value) if isinstance(value, tuple) else value for value in track.values]
    data: dict[str, Any] = {
        "form": track.form,
        "progress": list(track.progress),
        "values": values,
    }
    return data | ({"options": dict(track.options)} if track.options else {})


def read(data: object) -> tuple[SearchSpace, dict[str, Track], dict[str, Track]]:
    """Space, tracks and spreads of a document; `about` may hold anything and is not read."""
    document = _mapping("schedule", data)
    if document.get("kind") != KIND:
        raise HpoError(
            f"this is not a schedule: kind is {shown(document.get('kind'))}, not {KIND!r}",
            hint="hpo schedule --out FILE.json writes one",
            code="bad-schedule",
            path=("kind",),
        )
    version = _format(document.get("format"))
    _known_keys(document, KEYS if version == FORMAT else (*KEYS, SPREADS))
    domains = _mapping("space", document.get("space"), "space")
    if len(domains) > MOST_KNOBS:
        raise HpoError(f"{len(domains)} knobs: at most {MOST_KNOBS} are possible", path=("space",))
    tracks = _mapping("tracks", document.get("tracks"), "tracks")
    spreads = _mapping(SPREADS, document.get(SPREADS, {}), SPREADS)
    try:
        text = json.dumps(domains)
    except (TypeError, ValueError, RecursionError):
        raise _wrong("space", domains, "plain data", "space") from None
    return _space(text), _tracks("tracks", tracks), _tracks(SPREADS, spreads)


@lru_cache(maxsize=8)
def _space(text: str) -> SearchSpace:
    """The space of a document; the schedules of one study share it, so it is read once."""
    try:
        return SearchSpace({name: parse(name, spec) for name, spec in json.loads(text).items()})
    except HpoError as error:
        raise error.under("space") from None


def _tracks(key: str, data: Mapping[str, Any]) -> dict[str, Track]:
    return {name: _track(key, name, track) for name, track in data.items()}


def _track(key: str, name: str, data: object) -> Track:
    try:
        track = _mapping("track", data)
        _known_keys(track, TRACK_KEYS)
        form = track.get("form")
        if not isinstance(form, str):
            raise _wrong("form", form, "text")
        progress = _list("progress", track.get("progress"))
        values = _list("values", track.get("values"))
        options = _mapping("options", track.get("options", {}), "options")
        return Track(
            form,
            tuple(number("progress", place) for place in progress),
            tuple(tuple(value) if isinstance(value, list) else value for value in values),
            {option: number(option, value) for option, value in options.items()},
        )
    except HpoError as error:
        raise error.under(key, name) from None


def _format(version: object) -> int:
    if isinstance(version, bool) or version not in (FORMAT, FORMAT_WITH_SPREADS):
        newer = isinstance(version, int) and version > FORMAT_WITH_SPREADS
        raise HpoError(
            f"schedule format {shown(version)} is not known here, only {FORMAT} and "
            f"{FORMAT_WITH_SPREADS} are",
            hint="it was written by a newer version: upgrade hpo-schedules" if newer else "",
            code="unknown-format",
            found=version,
            path=("format",),
        )
    return FORMAT if version == FORMAT else FORMAT_WITH_SPREADS


def _known_keys(data: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            raise unknown("key", key, known, hint=f"known: {', '.join(known)}", path=(key,))


def _mapping(what: str, data: object, *path: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise _wrong(what, data, "a mapping", *path)
    return data


def _list(what: str, data: object) -> list[Any]:
    if not isinstance(data, list):
        raise _wrong(what, data, "a list", what)
    return data


def _wrong(what: str, data: object, due: str, *path: str) -> HpoError:
    return HpoError(
        f"{what} {shown(data)} is not {due}", code="bad-schedule", found=data, path=path
    )
