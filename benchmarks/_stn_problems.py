"""What the Self-Tuning Networks are measured on: pictures, small networks, four knobs, tuners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.selftuning import SelfTuning
from objectives.data.splits import cut, in_batches
from objectives.training.tuner import Follow, Tuner
from search_spaces import plugins
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

BATCH = 128
START = 0.05
SITES = 3  # dropout layers of every model here: the input and two hidden ones
_AT_ONCE = 500  # held-out rows in a batch
_SIZES = {"train": 10_000, "validation": 5_000}

RESPONSES = {"stn": "gains", "stn full": "full", "stn delta": "delta"}


class Pictures:
    """Ten classes of 28 x 28 pixels in 0 to 1; `made` is the model that was built last."""

    classes = 10
    splits = ("train", "validation", "test")
    name = "pictures"
    made: nn.Module

    def __init__(self, data: Mapping[str, Batch], layers: Callable[[], nn.Module]) -> None:
        self._data, self._layers = data, layers

    def model(self, seed: int) -> nn.Module:
        self.made = self._layers()
        return self.made

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        if split == "train":
            return in_batches(self._data[split], BATCH, rng)
        return in_batches(self._data[split], _AT_ONCE, None)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    @property
    def epoch(self) -> int:
        """Steps in a pass over the training rows."""
        return -(-len(self._data["train"].targets) // BATCH)


@lru_cache(maxsize=1)
def fashion() -> dict[str, Batch]:
    """Fashion-MNIST: 10000 rows to train on, 5000 others to validate, all 10000 test rows."""
    from objectives.data import fashion_mnist

    train, test = fashion_mnist.load("train"), fashion_mnist.load("test")
    rows = cut(len(train.labels), _SIZES, seed=0)
    return {
        **{name: _batch(train, index) for name, index in rows.items()},
        "test": _batch(test, torch.arange(len(test.labels))),
    }


@lru_cache(maxsize=2)
def drawn(rows: int) -> dict[str, Batch]:
    """Drawn pictures, so many in each split: where time is measured, or a run is to be short."""
    rng = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 1, 28, 28, generator=rng)
    found = {}
    for split in Pictures.splits:
        targets = torch.randint(0, 10, (rows,), generator=rng)
        noise = torch.rand(rows, 1, 28, 28, generator=rng)
        found[split] = Batch(0.3 * patterns[targets] + 0.7 * noise, targets)
    return found


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Dropout(START), nn.Linear(784, width), nn.ReLU()),
        *(nn.Dropout(START), nn.Linear(width, width), nn.ReLU()),
        *(nn.Dropout(START), nn.Linear(width, 10)),
    )


def two_convolutions() -> nn.Module:
    """Convolutions 1-10-20 of 5 x 5, then 320-40-10."""
    return nn.Sequential(
        *(nn.Dropout(START), nn.Conv2d(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(10, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(START), nn.Linear(320, 40), nn.ReLU()),
        *(nn.Dropout(START), nn.Linear(40, 10)),
    )


def three_convolutions() -> nn.Module:
    """Convolutions 1-10-20-40 of 3 x 3, then 360-10: the small network of the 2019 code."""
    return nn.Sequential(
        *(nn.Dropout(START), nn.Conv2d(1, 10, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(10, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(START)),
        *(nn.Conv2d(20, 40, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(START), nn.Linear(360, 10)),
    )


@lru_cache(maxsize=1)
def regularizers() -> dict[str, Regularizer]:
    """Dropout at the model's own layers, and noise on the pixels."""
    found = {}
    for name in ("dropout", "input_noise"):
        record = plugins.load("search_spaces.regularizers", name, "REGULARIZER")
        assert isinstance(record, Regularizer)
        found[name] = record
    return found


def space(dropout: float = START) -> SearchSpace:
    """A dropout rate for each site, 0 to 0.9, and the noise of the pixels, 0 to 1.5."""
    rate, noise = (regularizers()[name].knobs[name] for name in ("dropout", "input_noise"))
    assert isinstance(rate, Float) and isinstance(noise, Float)
    return SearchSpace(
        {
            "dropout": replace(rate, high=0.9, start=dropout, size=SITES),
            "input_noise": replace(noise, high=1.5, start=START),
        }
    )


def methods() -> dict[str, str]:
    """The self-tuning methods that are there, with what they call their response."""
    there = find_spec("hpo.bilevel.stn.published") is not None
    return {arm: kind for arm, kind in RESPONSES.items() if there or kind == "gains"}


def tuner(arm: str, knobs: SearchSpace, **options: Any) -> Tuner:
    """The tuner of an arm at its defaults: `follow` holds the start values."""
    if arm == "follow":
        return Follow(Schedule.constant(knobs, {}))
    chosen = SelfTuningOptions(response=RESPONSES[arm], **options)  # type: ignore[arg-type]
    if chosen.response == "gains":
        return SelfTuning(knobs, regularizers(), knobs.start, chosen)
    from hpo.bilevel.stn.published import Published

    return Published(knobs, regularizers(), knobs.start, chosen)


def _batch(images: Any, rows: Tensor) -> Batch:
    index = rows.numpy()
    pixels = torch.from_numpy(images.pixels[index]).to(torch.float32).div_(255).unsqueeze(1)
    return Batch(pixels, torch.from_numpy(images.labels[index]).to(torch.int64))
