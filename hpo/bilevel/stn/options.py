"""What can be set on a self-tuning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from search_spaces.errors import HpoError

_OFTEN, _SELDOM, _STEPS_OF_KNOBS = 2, 10, 150


def _number(default: Any, **limits: float) -> Any:
    """A field with the limits (at_least, above, at_most) that a spec is checked against."""
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class SelfTuningOptions:
    """How a Self-Tuning Network tunes; the defaults are in units that do not depend on the task.

    response: "gains" (scales and shifts of each layer's output, a direction of rank one for each
    knob), "full" (a second weight matrix for each layer, as in the 2019 paper) or "delta" (the 2020
    paper: a second matrix, its own objective, linearised). centred: the response sees how far the
    knobs are from their centre; False: where they are, as in 2019. every: training steps for each
    step of the knobs; unless given, 2 to 10, so that a run has about 150 of them. warmup: the share
    of the steps before the first. settle: the share at the end after the last. path: how far, in
    free units, a knob can travel in the run; a free unit is a logit of the knob's place in its
    range. rate: a step of the knobs, in place of what `path` gives. scale: the first perturbation,
    in free units; learn_scale: whether it is learned, between least_scale and most_scale, with the
    weight `entropy` on its entropy. trust: the longest step of a knob, in perturbations. freeze:
    knobs rest when the learning rate has decayed below this share of its peak. response_rate: the
    learning rate of the response, as a multiple of the weights'. average: over how many steps the
    response is averaged before the knobs follow it. restarts: how often a knob that has run into
    its lower end is put back to its start. audit: how often in the run the gradient is tested
    against training from copies, beside the centre.
    """

    response: Literal["gains", "full", "delta"] = "gains"
    centred: bool = True
    every: int | None = _number(None, at_least=1)
    warmup: float = _number(0.15, at_least=0, at_most=1)
    settle: float = _number(0.1, at_least=0, at_most=1)
    path: float = _number(12.0, above=0)
    rate: float | None = _number(None, above=0)
    scale: float = _number(1.0, above=0)
    learn_scale: bool = True
    least_scale: float = _number(0.1, above=0)
    most_scale: float = _number(2.0, above=0)
    entropy: float = _number(1e-3, at_least=0)
    trust: float = _number(0.2, above=0)
    freeze: float = _number(0.05, at_least=0, at_most=1)
    response_rate: float = _number(1.0, above=0)
    average: int = _number(50, at_least=1)
    restarts: int = _number(0, at_least=0)
    audit: int = _number(0, at_least=0)

    def __post_init__(self) -> None:
        if self.warmup + self.settle >= 1:
            raise _at_odds(
                f"warmup {self.warmup:g} and settle {self.settle:g} leave no share of the steps in"
                " which a knob could move",
                "together they must be below 1",
                "warmup",
            )
        if self.response == "gains":  # the published forms do not bound their perturbation
            self._check_scales()

    def _check_scales(self) -> None:
        least, most = self.least_scale, self.most_scale
        if least > most:
            raise _at_odds(
                f"least_scale {least:g} is above most_scale {most:g}",
                "least_scale must be at most most_scale",
                "least_scale",
            )
        if not least <= self.scale <= most:
            end, bound = ("least_scale", least) if self.scale < least else ("most_scale", most)
            raise _at_odds(
                f"scale {self.scale:g} is {'below' if end == 'least_scale' else 'above'} {end}"
                f" {bound:g}",
                f"set scale to a number from {least:g} (least_scale) to {most:g} (most_scale)",
                "scale",
            )

    def pace(self, steps: int) -> int:
        """Training steps for each step of the knobs, in a run of so many steps."""
        return self.every or min(_SELDOM, max(_OFTEN, steps // _STEPS_OF_KNOBS))

    def moves(self, steps: int) -> bool:
        """Whether any step of the knobs falls into a run of so many steps."""
        every = self.pace(steps)
        return any(
            step / steps >= self.warmup and (step - 1) / steps < 1 - self.settle
            for step in range(every, steps + 1, every)
        )


def _at_odds(message: str, hint: str, key: str) -> HpoError:
    return HpoError(message, hint=hint, code="bad-option", path=(key,))
