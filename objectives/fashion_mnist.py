"""Fashion-MNIST: ten kinds of clothing, a small network, as much of the data as asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from objectives.training.fields import share, whole_number
from objectives.training.options import Training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from objectives.data.fashion_mnist import Images
    from search_spaces.regularizer import Batch

_ROWS = 60000
_MEAN, _SPREAD = 72.9, 90.0  # of the pixels, 0 to 255
_EVALUATED_AT_ONCE = 500


@dataclass(frozen=True)
class FashionMnist:
    """70000 grey images of 28 x 28 (Xiao, Rasul and Vollgraf, 2017); `make data` brings them.

    train_rows: how many of the 60000 training images are trained on. held_out_rows: how many others
    of them are for validation, and as many again for selection; the 10000 test images are the test.
    label_noise: the share of training labels that are wrong; the other splits are clean. channels:
    of the first convolution, the second has twice as many. hidden: units of the hidden layer.
    batch_size: rows in a step. data_seed: decides the splits and which labels are wrong.
    """

    train_rows: int = 2000
    held_out_rows: int = 1000
    label_noise: float = 0.0
    channels: int = 12
    hidden: int = 64
    batch_size: int = 64
    data_seed: int = 0

    name: ClassVar[str] = "fashion_mnist"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "selection", "test")
    classes: ClassVar[int] = 10
    training: ClassVar[Training] = Training(steps=800, learning_rate=3e-3, evaluations=20)

    def __post_init__(self) -> None:
        whole_number(self.name, "held_out_rows", self.held_out_rows, 10, _ROWS // 4)
        most = _ROWS - 2 * self.held_out_rows
        whole_number(self.name, "train_rows", self.train_rows, 10, most)
        whole_number(self.name, "channels", self.channels, 1, 512)
        whole_number(self.name, "hidden", self.hidden, 1, 4096)
        whole_number(self.name, "batch_size", self.batch_size, 1, _ROWS)
        share(self.name, "label_noise", self.label_noise)
        from objectives.data import fashion_mnist

        fashion_mnist.find()  # where there is no data, say so before a study begins

    @property
    def note(self) -> str:
        wrong = f", {self.label_noise:.0%} wrong labels" if self.label_noise else ""
        return f"{self.train_rows} rows{wrong}"

    def model(self, seed: int) -> "nn.Module":
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(1, self.channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.channels, 2 * self.channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.0),
            nn.Flatten(),
            nn.Linear(2 * self.channels * 7 * 7, self.hidden),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(self.hidden, self.classes),
        )

    def batches(self, split: str, rng: "torch.Generator") -> "Iterator[Batch]":
        from objectives.data.splits import in_batches, split_named

        if split == "test":
            return in_batches(self._test, _EVALUATED_AT_ONCE, None)
        data = split_named(self._data, split, self.name)
        if split == "train":
            return in_batches(data, self.batch_size, rng)
        return in_batches(data, _EVALUATED_AT_ONCE, None)

    def loss(self, model: "nn.Module", batch: "Batch") -> "torch.Tensor":
        from torch.nn import functional

        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    @cached_property
    def _data(self) -> "dict[str, Batch]":
        from objectives.data import fashion_mnist
        from objectives.data.splits import cut, with_wrong_labels

        # The held-out rows come first: they stay the same when train_rows changes.
        held_out = {"validation": self.held_out_rows, "selection": self.held_out_rows}
        rows = cut(_ROWS, {**held_out, "train": self.train_rows}, self.data_seed)
        images = fashion_mnist.load("train")
        splits = {name: _tensors(images, index) for name, index in rows.items()}
        clean = splits["train"]
        noisy = with_wrong_labels(clean.targets, self.label_noise, self.classes, self.data_seed)
        return {**splits, "train": clean._replace(targets=noisy)}

    @cached_property
    def _test(self) -> "Batch":
        import torch

        from objectives.data import fashion_mnist

        images = fashion_mnist.load("test")
        return _tensors(images, torch.arange(len(images.labels)))


def _tensors(images: "Images", rows: "torch.Tensor") -> "Batch":
    """Some of the images, with one channel, mean 0 and spread 1, and their labels."""
    import torch

    from search_spaces.regularizer import Batch

    index = rows.numpy()
    pixels = torch.from_numpy(images.pixels[index]).to(torch.float32)
    pixels = pixels.sub_(_MEAN).div_(_SPREAD).unsqueeze(1)
    return Batch(pixels, torch.from_numpy(images.labels[index]).to(torch.int64))


OBJECTIVE = FashionMnist
