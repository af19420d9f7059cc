"""When a run that no longer improves is ended."""

import math
from typing import Any


class Patience:
    """Counts evaluations without a better value.

    evaluations: how many in a row end the run; None never does. While knobs move, nothing is
    counted and nothing is remembered: a schedule that turns regularization up raises the validation
    loss for a while, and the best value from before is then no measure of what is still to come.
    """

    def __init__(self, evaluations: int | None) -> None:
        self._evaluations = evaluations
        self._best = math.inf
        self._waited = 0

    def exhausted(self, value: float, moving: bool) -> bool:
        """Whether the run should end after an evaluation that gave `value`."""
        if self._evaluations is None:
            return False
        if moving:
            self._best, self._waited = math.inf, 0
        elif value < self._best:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        return self._waited >= self._evaluations

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]
