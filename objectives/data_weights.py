"""A weight for every training example of digits with wrong labels: which ones to trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.training.fields import share, whole_number
from search_spaces.domains import Domain, Float

if TYPE_CHECKING:
    from torch import Tensor

_SPLITS = ("train", "validation", "selection")


@dataclass(frozen=True)
class DataWeights:
    """A softmax regression W of handwritten digits minimizes the mean over its rows of weight times
    cross entropy, + l2 |W|^2 / 2; the outer loss is the cross entropy of rows with right labels.

    train_rows: to train on, each with a weight of its own. label_noise: share of them whose label
    is wrong. data_seed: decides which rows, and which labels. Metrics: weight_right and
    weight_wrong, the mean weight of rows with a right and with a wrong label.
    """

    train_rows: int = 300
    label_noise: float = 0.4
    data_seed: int = 0

    name: ClassVar[str] = "data_weights"

    def __post_init__(self) -> None:
        whole_number(self.name, "train_rows", self.train_rows, 20, 1200)
        share(self.name, "label_noise", self.label_noise)

    @property
    def space(self) -> Mapping[str, Domain]:
        return {
            "weight": Float(1e-3, 1.0, "log", start=0.5, size=self.train_rows),
            "l2": Float(1e-5, 1.0, "log", start=1e-2),
        }

    @property
    def note(self) -> str:
        return f"{self.train_rows} rows, {self.label_noise:.0%} of their labels wrong"

    @property
    def row_counts(self) -> Mapping[str, int]:
        return {"inner": self.train_rows, "outer": len(self._rows["validation"][1])}

    def init_params(self, seed: int) -> "Tensor":
        import torch

        return torch.zeros(64, 10, dtype=torch.float64)

    def inner_loss(
        self, params: "Tensor", h: Mapping[str, Any], rows: "Tensor | None" = None
    ) -> "Tensor":
        penalty: Tensor = h["l2"] * (params**2).sum() / 2
        weight = h["weight"] if rows is None else h["weight"][rows]
        weighted: Tensor = (weight * self._losses(params, "train", rows)).mean()
        return weighted + penalty

    def outer_loss(
        self, params: "Tensor", h: Mapping[str, Any], rows: "Tensor | None" = None
    ) -> "Tensor":
        loss: Tensor = self._losses(params, "validation", rows).mean()
        return loss

    def selection_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        return self._losses(params, "selection").mean()

    def mu(self, h: Mapping[str, Any]) -> float:
        return float(h["l2"])

    def final_metric(self, params: "Tensor", h: Mapping[str, Any]) -> dict[str, float]:
        right = self._rows["right"][1]
        found = {"weight_right": h["weight"][right], "weight_wrong": h["weight"][~right]}
        return {name: float(part.mean()) for name, part in found.items() if len(part)}

    def _losses(self, params: "Tensor", split: str, rows: "Tensor | None" = None) -> "Tensor":
        from torch.nn.functional import cross_entropy

        pixels, labels = self._rows[split]
        if rows is not None:
            pixels, labels = pixels[rows], labels[rows]
        return cross_entropy(pixels @ params, labels, reduction="none")

    @cached_property
    def _rows(self) -> "dict[str, tuple[Tensor, Tensor]]":
        import torch
        from sklearn.datasets import load_digits

        from objectives.data.splits import cut, with_wrong_labels

        pixels, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
        labels = labels.to(torch.int64)
        rest = (len(labels) - self.train_rows) // 2
        sizes = dict.fromkeys(_SPLITS, rest) | {"train": self.train_rows}
        rows = cut(len(labels), sizes, seed=self.data_seed)
        found = {split: (pixels[index] / 16, labels[index]) for split, index in rows.items()}
        true = found["train"][1]
        noisy = with_wrong_labels(true, self.label_noise, 10, self.data_seed)
        return {
            **found,
            "train": (found["train"][0], noisy),
            "right": (found["train"][0], noisy == true),
        }


OBJECTIVE = DataWeights
