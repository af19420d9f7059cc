"""Everything a study can tune by name: regularizers, augmentation operations, policies."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from search_spaces import plugins
from search_spaces.domains import Domain
from search_spaces.regularizer import Regularizer

if TYPE_CHECKING:
    from search_spaces.augmentation.operation import Operation

REGULARIZERS = "search_spaces.regularizers"
OPERATIONS = "search_spaces.augmentation.operations"
POLICIES = "search_spaces.augmentation.policies"
_AUGMENT = "augment."


def names() -> list[str]:
    """The names of all records, sorted; an operation's begins with `augment.`."""
    operations = [_AUGMENT + name for name in plugins.names(OPERATIONS)]
    return sorted([*plugins.names(REGULARIZERS), *operations, *plugins.names(POLICIES)])


@cache
def operation(name: str) -> Operation:
    """The operation of this name, without `augment.`; HpoError for an unknown one."""
    found: Any = plugins.load(OPERATIONS, name, "OPERATION")
    return found  # type: ignore[no-any-return]


def operations(kind: str) -> list[str]:
    """The names, with `augment.`, of the operations on examples of this kind."""
    return [_AUGMENT + n for n in plugins.names(OPERATIONS) if operation(n).kind == kind]


@cache
def load(name: str) -> Regularizer:
    """The record of this name; of an operation, the regularizer that it is by itself.

    HpoError for an unknown name.
    """
    if name.startswith(_AUGMENT):
        from search_spaces.augmentation.operation import as_regularizer

        short = name.removeprefix(_AUGMENT)
        return as_regularizer(short, operation(short))
    package, attribute = REGULARIZERS, "REGULARIZER"
    if name in plugins.names(POLICIES):
        package, attribute = POLICIES, "POLICY"
    found: Any = plugins.load(package, name, attribute)
    record: Regularizer = found
    return replace(record, stage="augment") if package == POLICIES else record


def about(name: str) -> str:
    """What a record is, in a line: the first of its file's docstring."""
    package = OPERATIONS if name.startswith(_AUGMENT) else REGULARIZERS
    if name in plugins.names(POLICIES):
        package = POLICIES
    module = importlib.import_module(f"{package}.{name.removeprefix(_AUGMENT)}")
    return " ".join((module.__doc__ or "").split("\n\n")[0].split())


def records() -> dict[str, Regularizer]:
    """Every record by its name."""
    return {name: load(name) for name in names()}


def knobs() -> dict[str, Domain]:
    """The default range of every knob there is."""
    return {knob: domain for record in records().values() for knob, domain in record.knobs.items()}
