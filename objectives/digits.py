"""Handwritten digits: few training rows, some with wrong labels, so that regularization matters."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from objectives.training.fields import share, whole_number
from objectives.training.options import Training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from search_spaces.regularizer import Batch

_HELD_OUT = {"validation": 300, "selection": 300, "test": 500}
_ROWS = 1797
_MEAN, _SPREAD = 4.9, 6.0  # of the pixels, 0 to 16: noise on the inputs is in units of their spread


@dataclass(frozen=True)
class Digits:
    """1797 grey images of 8 x 8, the UCI handwritten digits as scikit-learn carries them.

    train_rows: how many are trained on, at most 697; 300 each are for validation and selection, 500
    for the test. label_noise: the share of training labels that are wrong; the other splits are
    clean. network: "mlp", two hidden layers of `hidden` units, or "cnn", two convolutions and one
    hidden layer of `hidden` units; both with dropout sites. batch_size: rows in a step. data_seed:
    decides the splits and which labels are wrong.
    """

    train_rows: int = 300
    label_noise: float = 0.15
    network: Literal["mlp", "cnn"] = "mlp"
    hidden: int = 128
    batch_size: int = 50
    data_seed: int = 0

    name: ClassVar[str] = "digits"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "selection", "test")
    classes: ClassVar[int] = 10
    training: ClassVar[Training] = Training(steps=1500, learning_rate=2e-3, evaluations=25)

    def __post_init__(self) -> None:
        whole_number(self.name, "train_rows", self.train_rows, 10, _ROWS - sum(_HELD_OUT.values()))
        whole_number(self.name, "hidden", self.hidden, 1, 4096)
        whole_number(self.name, "batch_size", self.batch_size, 1, _ROWS)
        share(self.name, "label_noise", self.label_noise)

    @property
    def note(self) -> str:
        return f"{self.train_rows} rows, {self.label_noise:.0%} wrong labels"

    def model(self, seed: int) -> "nn.Module":
        from torch import nn

        if self.network == "cnn":
            return nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout2d(0.0),
                nn.Flatten(),
                nn.Linear(16 * 4 * 4, self.hidden),
                nn.ReLU(),
                nn.Dropout(0.0),
                nn.Linear(self.hidden, self.classes),
            )
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, self.hidden),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(self.hidden, self.classes),
        )

    def batches(self, split: str, rng: "torch.Generator") -> "Iterator[Batch]":
        from objectives.data.splits import in_batches, split_named

        data = split_named(self._data, split, self.name)
        if split == "train":
            return in_batches(data, self.batch_size, rng)
        return in_batches(data, len(data.targets), None)

    def loss(self, model: "nn.Module", batch: "Batch") -> "torch.Tensor":
        from torch.nn import functional

        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    @cached_property
    def _data(self) -> "dict[str, Batch]":
        import torch
        from sklearn.datasets import load_digits

        from objectives.data.splits import cut, with_wrong_labels
        from search_spaces.regularizer import Batch

        pixels, labels = load_digits(return_X_y=True)
        inputs = (
            torch.tensor(pixels, dtype=torch.float32).sub_(_MEAN).div_(_SPREAD).reshape(-1, 1, 8, 8)
        )
        targets = torch.tensor(labels, dtype=torch.int64)
        rows = cut(_ROWS, {**_HELD_OUT, "train": self.train_rows}, self.data_seed)
        splits = {name: Batch(inputs[index], targets[index]) for name, index in rows.items()}
        clean = splits["train"]
        noisy = with_wrong_labels(clean.targets, self.label_noise, self.classes, self.data_seed)
        return {**splits, "train": clean._replace(targets=noisy)}


OBJECTIVE = Digits
