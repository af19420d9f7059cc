"""Where trials run. A public file in this folder is one engine and gives it its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hpo.errors import Unavailable
from search_spaces import plugins

if TYPE_CHECKING:
    from hpo.spec import StudySpec
    from hpo.study import Study

TICK = 0.5  # seconds between two looks at the study
GRACE = 30.0  # seconds for which trials may go on after an interrupt


@dataclass(frozen=True)
class Slots:
    """What an engine may use: trials at once, and the share of a GPU each gets."""

    workers: int
    gpus_per_trial: float = 0.0
    memory_per_trial: int | None = None


@dataclass(frozen=True)
class Engine:
    """`run(study, slots)` drains trials until `study.done()`; `summary` is one line for lists.

    `where`: the place, in words, at which the engine finds room for the trials of a study, or an
    HpoError if it cannot use that place; without it trials run in the slots of this machine;
    `schedules`: it has Ray Tune's schedulers, which move trials and their knobs while they run;
    `needs`: the package it cannot do without, and the extra that brings it.
    """

    run: Callable[[Study, Slots], None]
    summary: str
    where: Callable[[StudySpec], str] | None = None
    schedules: bool = False
    needs: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether trials run in another place than the slots of this machine."""
        return self.where is not None


def names() -> list[str]:
    """The engines there are."""
    return plugins.names("hpo.engines")


def load(name: str) -> Engine:
    """The engine called `name`. Raises HpoError naming the known ones."""
    known = names()
    if name not in known:
        hint = f"known: {', '.join(known)}"
        raise plugins.unknown("engine", name, known, hint=hint, path=("engine",))
    found: Any = plugins.load("hpo.engines", name, "ENGINE")
    assert isinstance(found, Engine)
    return found


def able(trait: str) -> str:
    """The engines that have a trait (elsewhere, schedules), as a choice: `ray or slurm`."""
    return " or ".join(name for name in names() if getattr(load(name), trait))


def require(name: str) -> None:
    """Raises Unavailable if what the engine needs is not installed."""
    needs = load(name).needs
    if needs and find_spec(needs) is None:
        raise Unavailable(
            f"engine {name}: {needs} is not installed",
            hint=f'pip install "hpo-schedules[{needs}]", or use --engine optuna',
            code="no-engine",
            path=("engine",),
        )
