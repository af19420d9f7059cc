"""Why MLflow did not take something, in the words of a user: what, where, what to do."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from hpo.masking import without_password
from hpo.tracking.address import is_server, without_login

_RIGHTS = "ask its owner for the right to write, or name another user"
_LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to the right ones"
_KNOWN_BY = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH")

# As MLflow's client words an answer that is none of MLflow's own.
_STATUS = re.compile(r"failed with error code (\d+) != |too many (\d+) error responses")
_BODY = re.compile(r"Response body: '(.*)'\s*$", re.S)


@dataclass(frozen=True)
class Trouble:
    """What is wrong in one line without a password, and what the user can do, "" if only wait.

    A `login` is refused until the user acts, an `outage` may pass by itself.
    """

    kind: Literal["outage", "login"]
    text: str
    hint: str = ""


def explain(error: Exception, uri: str) -> Trouble:
    """The trouble behind what a call to MLflow at `uri` raised."""
    text = without_password(str(error)) or type(error).__name__
    if not is_server(uri):
        return Trouble("outage", short(text))
    found = _STATUS.search(text)
    if found:
        body = _BODY.search(text)
        return of_status(int(found[1] or found[2]), body[1] if body else "", uri)
    told = without_password(uri)
    if "was successful but the response body was not" in text:
        return Trouble("outage", f"{told} answers, but not as MLflow does: {_looks(text)}")
    if text.startswith("API request to"):
        return Trouble("outage", f"{told} does not answer{_cause(text)}")
    return Trouble("outage", short(text))


def of_status(status: int, body: str, uri: str) -> Trouble:
    """The trouble behind an HTTP status that is no success."""
    told = without_password(uri)
    if status == 401:
        inside = without_login(uri) != uri
        known = inside or any(os.environ.get(name) for name in _KNOWN_BY)
        said = "refuses this user name and password" if known else "asks for user name and password"
        hint = "give the right ones: --tracking-uri http://USER:PASSWORD@HOST:PORT"
        return Trouble("login", f"{told} {said} (401)", hint if inside else _LOGIN)
    if status == 403:
        said = short(re.sub(r"\s+", " ", body)) if "<" not in body else ""
        more = f": {said}" if said else ""
        return Trouble("login", f"{told} lets this user not do that (403){more}", _RIGHTS)
    if status == 404:
        return Trouble("outage", f"{told} answers, but not as MLflow does ({status})")
    return Trouble("outage", f"{told} answers with an error ({status})")


def _looks(text: str) -> str:
    return "a page, perhaps of a proxy" if "<" in text else "no JSON"


def _cause(text: str) -> str:
    """What is known of a connection that failed; nothing for the ordinary case, none is there."""
    if "timed out" in text:
        return " in time"
    if "NameResolutionError" in text:
        return ": there is no such host"
    if "SSLError" in text:
        return " to https as it should"
    return ""


def short(text: str) -> str:
    """The first line of an error text, cut to what fits a terminal."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 200 else line[:197] + "..."
