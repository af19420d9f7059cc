"""Looks at a tracking server as MLflow's client would: is it there, does it let us in, how old."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.tracking.quiet import settings, silence_this_thread
from hpo.tracking.trouble import Trouble, explain, of_status

_PATIENCE = 5.0  # seconds for each of two requests


@dataclass(frozen=True)
class Answer:
    """The server's version, "" if it tells none; `trouble` is None if runs can be sent there."""

    version: str = ""
    trouble: Trouble | None = None


def ask(uri: str) -> Answer:
    """What the server at `uri` answers to the credentials in the address or the environment.

    Nothing is written there; it takes seconds at most. MLflow is imported for it.
    """
    settings()
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, http_request_safe

    silence_this_thread()
    creds = get_default_host_creds(uri)
    try:
        said = http_request(
            creds, "/version", "GET", max_retries=0, timeout=_PATIENCE, raise_on_status=False
        )
        if said.status_code not in (200, 404):  # a proxy may not let this page through
            return Answer(trouble=of_status(said.status_code, said.text, uri))
        experiments, one = "/api/2.0/mlflow/experiments/search", {"max_results": 1}
        http_request_safe(creds, experiments, "POST", json=one, max_retries=0, timeout=_PATIENCE)
    except Exception as error:  # whatever the client raises, it is what a study would meet
        return Answer(trouble=explain(error, uri))
    version = said.text.strip() if said.status_code == 200 else ""
    return Answer(version if version[:1].isdecimal() else "")
