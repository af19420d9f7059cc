"""Kernel ridge regression on the diabetes table: the strength, and a width for each feature."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.data import diabetes
from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float

if TYPE_CHECKING:
    from torch import Tensor

_MEASURED = 10  # features without their products


@dataclass(frozen=True)
class KernelRidge:
    """Coefficients a of the training rows minimize |K a - y|^2 / (2 rows) + l2 a'K a / 2, where
    K_ij = exp(-sum over features of ((x_i - x_j) / width)^2 / 2); the outer loss is the mean
    squared error of other rows, in units of the target's variance.

    train_rows: to train on; half of the rest is for the outer loss, half for selection. data_seed:
    decides which.
    """

    train_rows: int = 120
    data_seed: int = 0

    name: ClassVar[str] = "kernel_ridge"
    space: ClassVar[Mapping[str, Domain]] = {
        "l2": Float(1e-4, 10.0, "log", start=1e-2),
        "width": Float(0.3, 30.0, "log", start=3.0, size=_MEASURED),
    }

    def __post_init__(self) -> None:
        whole_number(self.name, "train_rows", self.train_rows, 10, 300)

    @property
    def note(self) -> str:
        return f"{self.train_rows} rows, {_MEASURED} widths"

    def init_params(self, seed: int) -> "Tensor":
        import torch

        return torch.zeros(self.train_rows, dtype=torch.float64)

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        features, target = self._rows["train"]
        kernel = _kernel(features, features, h["width"])
        fitted = kernel @ params
        penalty: Tensor = h["l2"] * (params @ fitted) / 2
        return ((fitted - target) ** 2).mean() / 2 + penalty

    def outer_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        return self._error(params, h, "validation")

    def selection_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        return self._error(params, h, "selection")

    def _error(self, params: "Tensor", h: Mapping[str, Any], split: str) -> "Tensor":
        features, target = self._rows[split]
        kernel = _kernel(features, self._rows["train"][0], h["width"])
        return ((kernel @ params - target) ** 2).mean()

    @cached_property
    def _rows(self) -> "dict[str, tuple[Tensor, Tensor]]":
        found = diabetes.splits(self.train_rows, self.data_seed)
        return {split: (x[:, :_MEASURED], y) for split, (x, y) in found.items()}


def _kernel(left: "Tensor", right: "Tensor", width: "Tensor") -> "Tensor":
    """exp(-|u - v|^2 / 2) of the rows, divided by the widths: (left rows, right rows)."""
    u, v = left / width, right / width
    squares: Tensor = (u**2).sum(1)[:, None] + (v**2).sum(1)[None] - 2 * u @ v.t()
    return (-squares / 2).exp()


OBJECTIVE = KernelRidge
