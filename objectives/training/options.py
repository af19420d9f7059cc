"""How one training run goes, apart from what is tuned in it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from objectives.training.fields import checked
from search_spaces.errors import HpoError
from search_spaces.plugins import closest

OPTIMIZERS = ("adamw", "momentum", "sgd")
RATE_SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class Training:
    """The options of one training run.

    steps: optimizer steps. optimizer: adamw, momentum or sgd, none of them with a weight decay of
    its own (that is a regularizer). learning_rate: the base rate; a knob of that name takes its
    place. momentum: of the optimizer momentum. learning_rate_schedule: constant, or linear or
    cosine decay to zero. warmup: share of the steps in which the rate first rises from zero. clip:
    largest norm of the gradient. evaluations: how many evenly spaced measurements, the last after
    the last step. patience: stop after so many evaluations in a row without a better val_loss;
    counting starts when no knob moves any more.
    """

    steps: int = 1000
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    learning_rate_schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    evaluations: int = 20
    patience: int | None = None

    def __post_init__(self) -> None:
        _at_least("steps", self.steps, 1)
        _at_least("evaluations", self.evaluations, 1)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("learning_rate_schedule", self.learning_rate_schedule, RATE_SCHEDULES)
        _inside("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True)
        _inside("momentum", self.momentum, 0.0, 1.0)
        _inside("warmup", self.warmup, 0.0, 1.0)
        if self.clip is not None:
            _inside("clip", self.clip, 0.0, math.inf, open_low=True)
        if self.patience is not None:
            _at_least("patience", self.patience, 1)

    @classmethod
    def parse(cls, options: Mapping[str, Any], base: "Training | None" = None) -> "Training":
        """`base`, or the defaults, with some options replaced; HpoError for what does not fit."""
        return replace(base or cls(), **checked(cls, options, "training", "training"))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain data that `parse` reads back."""
        return asdict(self)

    def evaluation_steps(self) -> list[int]:
        """The steps after which a measurement is taken, the last of them `steps`."""
        count = min(self.evaluations, self.steps)
        return sorted({round(self.steps * i / count) for i in range(1, count + 1)})

    def rate_factor(self, progress: float) -> float:
        """What the base learning rate is multiplied by at a progress in [0, 1)."""
        # Half a step ahead, so that neither the first step of a warm-up nor the last of a decay
        # is lost.
        middle = min(1.0, progress + 0.5 / self.steps)
        if middle < self.warmup:
            return middle / self.warmup
        if self.learning_rate_schedule == "constant":
            return 1.0
        left = (1.0 - middle) / (1.0 - self.warmup) if self.warmup < 1.0 else 1.0
        if self.learning_rate_schedule == "linear":
            return left
        return 0.5 * (1.0 - math.cos(math.pi * left))


def _error(name: str, value: object, allowed: str, suggest: str | None = None) -> HpoError:
    guess = f", did you mean '{suggest}'?" if suggest else ""
    return HpoError(
        f"training: {name} is {value!r}{guess}",
        hint=f"{name} must be {allowed}",
        code="bad-training",
        found=value,
        suggest=suggest,
        path=("training", name),
    )


def _at_least(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise _error(name, value, f"a whole number of at least {low}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _error(name, value, f"one of {', '.join(allowed)}", closest(str(value), allowed))


def _inside(name: str, value: float, low: float, high: float, open_low: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and low <= value <= high and not (open_low and value == low):
        return
    bounds = f"a number above {low:g}" if open_low else f"a number in [{low:g}, {high:g}]"
    raise _error(name, value, bounds)
