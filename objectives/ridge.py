"""Ridge regression in closed form: a black-box objective whose best strength is known exactly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.data import diabetes
from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ridge:
    """Diabetes of 442 patients from ten measurements, their squares and products (65 features).

    With strength l2 the weights are (X'X / n + l2 I)^-1 X'y / n on the n training rows; val_loss is
    the mean squared error on the held-out rows, in units of the target's variance in the training
    rows. train_rows: n, the other rows are held out. data_seed: decides which. The seed of a trial
    changes nothing: there is no chance in it.
    """

    train_rows: int = 100
    data_seed: int = 0

    name: ClassVar[str] = "ridge"
    space: ClassVar[Mapping[str, Domain]] = {"l2": Float(1e-6, 1e3, "log", start=1e-5)}

    def __post_init__(self) -> None:
        whole_number(self.name, "train_rows", self.train_rows, 10, diabetes.ROWS - 40)

    @property
    def note(self) -> str:
        return f"{self.train_rows} rows, 65 features, closed form"

    def __call__(self, h: "Callable[[float], Mapping[str, Any]]", seed: int) -> dict[str, float]:
        return {"val_loss": self.val_loss(float(h(1.0)["l2"]))}

    def val_loss(self, l2: float) -> float:
        """The held-out loss at one strength, exactly."""
        values, projected, to_held_out, held_out = self._factors
        # X = U diag(s) V': the weights at every strength come from one decomposition.
        predicted = to_held_out @ (projected / (values + l2))
        return float(((predicted - held_out) ** 2).mean())

    def best(self) -> tuple[float, float]:
        """The best strength within the range of `space`, and its val_loss, to seven digits."""
        import math

        from scipy.optimize import minimize_scalar

        grid = [10.0 ** (-6 + 9 * i / 90) for i in range(91)]
        nearest = min(range(91), key=lambda i: self.val_loss(grid[i]))
        bounds = (math.log(grid[max(0, nearest - 1)]), math.log(grid[min(90, nearest + 1)]))
        found = minimize_scalar(
            lambda u: self.val_loss(math.exp(u)),
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        return math.exp(found.x), float(found.fun)

    @cached_property
    def _factors(self) -> "tuple[NDArray[np.float64], ...]":
        import numpy as np

        features, target, held_out, wanted = diabetes.rows(self.train_rows, self.data_seed)
        left, singular, right = np.linalg.svd(features, full_matrices=False)
        values = singular**2 / self.train_rows
        projected = singular * (left.T @ target) / self.train_rows
        return values, projected, held_out @ right.T, wanted


OBJECTIVE = Ridge
