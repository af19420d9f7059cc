"""MLflow as a place to look at: what a study reports is delivered there, behind its back.

The driver appends events to a `Spool` and never waits. A `Tracker` delivers them from a thread;
what MLflow does not take now stays in the spool and is delivered later, by this process or by the
next one on the same study. The layout is one run for the study and one below it for each attempt
of each trial, with the knobs as metrics h/<knob> next to the losses.
"""

from hpo.tracking.address import (
    database_file,
    default_uri,
    environment_uri,
    is_server,
    old_file_store,
    resolve_uri,
    without_login,
)
from hpo.tracking.tracker import Delivery, Tracker

__all__ = [
    "Delivery",
    "Tracker",
    "database_file",
    "default_uri",
    "environment_uri",
    "is_server",
    "old_file_store",
    "resolve_uri",
    "without_login",
]
