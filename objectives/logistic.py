"""Softmax regression with an L2 strength for every weight, every class, or all of them together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

_SPLITS = ("train", "validation", "selection", "test")
_LEAST, _MOST = 1e-6, 1e3


@dataclass(frozen=True)
class Logistic:
    """Weights W (features x 10) of a softmax regression; h["l2"] enters as sum of l2 W^2 / 2.

    data: digits (1797 pictures, 64 pixels in 0 to 1) or fashion_mnist (784). strengths: one for
    each weight, one for each class, or a single one. train_rows: to train on; a third of the rest
    is for the outer loss, a third for selection, a third for the test. The outer loss is the cross
    entropy of the validation rows. data_seed: decides which rows are which.
    """

    data: Literal["digits", "fashion_mnist"] = "digits"
    strengths: Literal["weight", "class", "all"] = "weight"
    train_rows: int = 600
    data_seed: int = 0

    name: ClassVar[str] = "logistic"
    splits: ClassVar[tuple[str, ...]] = _SPLITS

    def __post_init__(self) -> None:
        whole_number(self.name, "train_rows", self.train_rows, 20, 1500)
        for key, allowed in (
            ("data", ("digits", "fashion_mnist")),
            ("strengths", ("weight", "class", "all")),
        ):
            if getattr(self, key) not in allowed:
                raise HpoError(
                    f"objective {self.name}: {key} is {getattr(self, key)!r}",
                    hint=f"one of {', '.join(allowed)}",
                    code="bad-option",
                    path=("objective_options", key),
                )

    @property
    def note(self) -> str:
        return f"{self.train_rows} rows, {self._features} x 10 weights, {self._size} strengths"

    @property
    def space(self) -> Mapping[str, Domain]:
        size = None if self.strengths == "all" else self._size
        return {"l2": Float(_LEAST, _MOST, "log", start=0.05, size=size)}

    @property
    def row_counts(self) -> Mapping[str, int]:
        return {"inner": len(self._rows["train"][1]), "outer": len(self._rows["validation"][1])}

    def init_params(self, seed: int) -> "Tensor":
        import torch

        return torch.zeros(self._features, 10, dtype=torch.float64)

    def inner_loss(
        self, params: "Tensor", h: Mapping[str, Any], rows: "Tensor | None" = None
    ) -> "Tensor":
        strength = h["l2"]
        if self.strengths == "weight":
            strength = strength.view_as(params)
        penalty: Tensor = (strength * params**2).sum() / 2
        return self._loss(params, "train", rows) + penalty

    def outer_loss(
        self, params: "Tensor", h: Mapping[str, Any], rows: "Tensor | None" = None
    ) -> "Tensor":
        return self._loss(params, "validation", rows)

    def selection_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        return self._loss(params, "selection")

    def mu(self, h: Mapping[str, Any]) -> float:
        return float(h["l2"].min())

    def outer_smoothness(self, h: Mapping[str, Any]) -> float:
        """Of softmax and cross entropy: half the greatest eigenvalue of X'X / rows."""
        return self._smoothness

    def final_metric(self, params: "Tensor", h: Mapping[str, Any]) -> dict[str, float]:
        pixels, labels = self._rows["validation"]
        wrong = (pixels @ params).argmax(1) != labels
        return {"val_error": float(wrong.double().mean())}

    @property
    def _features(self) -> int:
        return 64 if self.data == "digits" else 784

    @property
    def _size(self) -> int:
        return {"weight": 10 * self._features, "class": 10, "all": 1}[self.strengths]

    def _loss(self, params: "Tensor", split: str, rows: "Tensor | None" = None) -> "Tensor":
        from torch.nn.functional import cross_entropy

        pixels, labels = self._rows[split]
        if rows is not None:
            pixels, labels = pixels[rows], labels[rows]
        return cross_entropy(pixels @ params, labels)

    @cached_property
    def _smoothness(self) -> float:
        import torch

        pixels, _ = self._rows["validation"]
        return float(torch.linalg.eigvalsh(pixels.t() @ pixels)[-1]) / (2 * len(pixels))

    @cached_property
    def _rows(self) -> "dict[str, tuple[Tensor, Tensor]]":
        import torch

        from objectives.data.splits import cut

        pixels, labels = _pictures(self.data)
        rest = (min(len(labels), self.train_rows + 3000) - self.train_rows) // 3
        sizes = dict.fromkeys(_SPLITS, rest) | {"train": self.train_rows}
        rows = cut(len(labels), sizes, seed=self.data_seed)
        return {
            split: (
                torch.from_numpy(pixels[index.numpy()]).to(torch.float64),
                torch.from_numpy(labels[index.numpy()]).to(torch.int64),
            )
            for split, index in rows.items()
        }


def _pictures(data: str) -> tuple[Any, Any]:
    """Pixels (rows, features) in 0 to 1, and labels."""
    if data == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels / 16, labels
    from objectives.data import fashion_mnist

    images = fashion_mnist.load("train")
    return images.pixels.reshape(len(images.labels), -1) / 255.0, images.labels


OBJECTIVE = Logistic
