"""Elastic net on the diabetes table: how sparse, and how small, the weights shall be."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.data import diabetes
from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ElasticNet:
    """Weights w of 65 features minimize the mean squared error / 2 + l1 |w|_1 + l2 |w|^2 / 2; the
    outer loss is the mean squared error of other rows, in units of the target's variance.

    train_rows: to train on; half of the rest is for the outer loss, half for selection. data_seed:
    decides which. Metric: nonzero, the number of weights that are not zero.
    """

    train_rows: int = 150
    data_seed: int = 0

    name: ClassVar[str] = "elastic_net"
    space: ClassVar[Mapping[str, Domain]] = {
        "l1": Float(1e-4, 1.0, "log", start=1e-3),
        "l2": Float(1e-5, 1e2, "log", start=1e-3),
    }

    def __post_init__(self) -> None:
        whole_number(self.name, "train_rows", self.train_rows, 10, diabetes.ROWS - 40)

    @property
    def note(self) -> str:
        return f"{self.train_rows} rows, {diabetes.FEATURES} features"

    def init_params(self, seed: int) -> "Tensor":
        import torch

        return torch.zeros(diabetes.FEATURES, dtype=torch.float64)

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        penalty: Tensor = h["l2"] * (params**2).sum() / 2
        return self._error(params, "train") / 2 + penalty

    def prox(self, params: "Tensor", h: Mapping[str, Any], step: float) -> "Tensor":
        left: Tensor = (params.abs() - step * h["l1"]).clamp(min=0)
        return params.sign() * left

    def outer_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        return self._error(params, "validation")

    def selection_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        return self._error(params, "selection")

    def final_metric(self, params: "Tensor", h: Mapping[str, Any]) -> dict[str, float]:
        return {"nonzero": float((params != 0).sum())}

    def _error(self, params: "Tensor", split: str) -> "Tensor":
        features, target = self._rows[split]
        return ((features @ params - target) ** 2).mean()

    @cached_property
    def _rows(self) -> "dict[str, tuple[Tensor, Tensor]]":
        return diabetes.splits(self.train_rows, self.data_seed)


OBJECTIVE = ElasticNet
