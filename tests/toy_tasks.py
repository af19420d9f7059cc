"""Small tasks on drawn data, for tests of the training loop."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces import catalogue, plugins
from search_spaces.domains import Float, Value
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

SHORT = Training(steps=12, evaluations=4, learning_rate=0.01)


class Blobs:
    """Three noisy clusters; remembers the models it made, the batches and the modes it saw."""

    classes = 3
    splits: tuple[str, ...] = ("train", "validation", "selection", "test")
    name = "blobs"

    def __init__(self, rows: int = 45, batch_size: int = 10) -> None:
        self.batch_size = batch_size
        self.models: list[nn.Module] = []
        self.seen: list[Batch] = []
        rng = torch.Generator().manual_seed(5)
        self.data = {}
        for split in ("train", "validation", "selection", "test"):
            targets = torch.randint(0, 3, (rows,), generator=rng)
            inputs = torch.randn(rows, 4, generator=rng) + 1.5 * functional.one_hot(targets, 4)
            self.data[split] = (inputs, targets)

    def model(self, seed: int) -> nn.Module:
        parts = [nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU()]
        model = nn.Sequential(*parts, nn.Dropout(0.3), nn.Linear(16, 3))
        self.models.append(model)
        return model

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Any]:
        inputs, targets = self.data[split]
        order = torch.randperm(len(targets), generator=rng)
        for part in order.split(self.batch_size):
            yield inputs[part], targets[part]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            self.seen.append(batch)
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class Restless(Blobs):
    """Draws from every global generator: in the model, for the order, and for each batch."""

    def model(self, seed: int) -> nn.Module:
        class Noisy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.2))
                self.last = nn.Linear(16, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(functional.dropout(self.layers(x), 0.2, self.training))

        model = Noisy()
        self.models.append(model)
        return model

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Any]:
        if split != "train":
            yield from super().batches(split, rng)
            return
        inputs, targets = self.data[split]
        order = np.random.permutation(len(targets)).tolist()
        random.shuffle(order)
        for part in torch.tensor(order).split(self.batch_size):
            shift = (
                random.random() + np.random.rand() + torch.rand(1) + torch.rand(1, generator=rng)
            )
            yield inputs[part] + 0.1 * shift, targets[part]


class Dying(Blobs):
    """Its process is killed after as many training batches, the first time."""

    def __init__(self, folder: str, after: int = 25) -> None:
        super().__init__()
        self.mark, self.left = Path(folder) / "died", after

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.left -= model.training
        if self.left == 0 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


def regularizers(*names: str) -> dict[str, Regularizer]:
    found = {}
    for name in names:
        found[name] = catalogue.load(name)
    return found


def constant(**point: Value) -> Follow:
    """Follows one point throughout; knobs without a range of their own get a wide one."""
    known = {k: d for r in regularizers(*_regularizer_names()).values() for k, d in r.knobs.items()}
    domains = {name: known.get(name, Float(0.0, 1e9)) for name in point}
    return Follow(Schedule.constant(SearchSpace({}), {}).pin(domains, point))


def run(
    task: Any,
    training: Training = SHORT,
    seed: int = 0,
    tuner: Any = None,
    knobs: dict[str, Any] | None = None,
    **options: Any,
) -> list[Measurement]:
    """All measurements of a run; each knob is the strength of the regularizer of its name."""
    knobs = knobs or {}
    names = [name for name in knobs if name in _regularizer_names()]
    tuner = tuner or constant(**knobs)
    return list(train(task, regularizers(*names), tuner, training, seed, **options))


def numbers(measurements: list[Measurement]) -> list[Any]:
    """Everything of the measurements but the seconds, which differ from run to run."""
    return [
        (m.step, m.progress, m.metrics, m.point, m.cost["gradients"], m.cost["examples"])
        for m in measurements
    ]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _regularizer_names() -> list[str]:
    return plugins.names("search_spaces.regularizers")
