"""Small tasks of several kinds of model, and knobs for anything in the catalogue to try on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives import Branch
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces import catalogue
from search_spaces.domains import Choice, Domain, Value
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

ROWS, CLASSES, WORDS = 12, 3, 11
ONE_STEP = Training(steps=1, optimizer="sgd", learning_rate=0.1, learning_rate_schedule="constant")


class Toy:
    """A task of double precision whose inputs and model are of one kind."""

    classes: ClassVar[int | None] = CLASSES
    splits = ("train", "validation")
    name = "toy"

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(3)
        self.data = Batch(self.inputs(rng), torch.randint(0, CLASSES, (2 * ROWS,), generator=rng))
        self.built: list[nn.Module] = []

    def inputs(self, rng: torch.Generator) -> Tensor:
        return torch.randn(2 * ROWS, 6, generator=rng, dtype=torch.float64)

    def network(self) -> nn.Module:
        parts = [nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 8), nn.Tanh()]
        return nn.Sequential(*parts, nn.Dropout(0.0), nn.Linear(8, CLASSES))

    def model(self, seed: int) -> nn.Module:
        self.built.append(self.network().double())
        return self.built[-1]

    def teacher(self, seed: int) -> nn.Module:
        return self.network().double()

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        for part in (slice(0, ROWS), slice(ROWS, 2 * ROWS)):
            yield Batch(self.data.inputs[part], self.data.targets[part])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class Pictures(Toy):
    """Images of three channels and a network of convolutions with batch norm."""

    channels = 3

    def inputs(self, rng: torch.Generator) -> Tensor:
        coarse = torch.rand(2 * ROWS, self.channels, 3, 3, generator=rng, dtype=torch.float64)
        return 3 * functional.interpolate(coarse, size=(8, 8), mode="bilinear") - 1

    def network(self) -> nn.Module:
        parts = [nn.Conv2d(self.channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()]
        parts += [nn.Dropout2d(0.0), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 8), nn.Tanh()]
        return nn.Sequential(*parts, nn.Dropout(0.0), nn.Linear(8, CLASSES))


class GreyPictures(Pictures):
    """Images of one channel."""

    channels = 1


class Words(Toy):
    """Sentences of whole numbers and a small transformer, whose last branch has a marked end."""

    token_parts = torch.full((WORDS, 2), -1)
    token_parts[-4:] = torch.tensor([[1, 2], [3, 7], [8, 4], [5, 6]])

    def inputs(self, rng: torch.Generator) -> Tensor:
        return torch.randint(1, WORDS, (2 * ROWS, 6), generator=rng)

    def network(self) -> nn.Module:
        return Transformer()


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS + 1, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.branch, self.end, self.last = nn.Linear(8, 8), Branch(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        read = self.block(self.embed(x)).mean(1)
        return self.last(read + self.end(self.branch(read)))


class Series(Toy):
    """Series of two channels and a convolution."""

    def inputs(self, rng: torch.Generator) -> Tensor:
        return torch.randn(2 * ROWS, 2, 16, generator=rng, dtype=torch.float64).cumsum(-1)

    def network(self) -> nn.Module:
        parts = [nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Dropout1d(0.0), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(64, CLASSES))


class Restoring(Pictures):
    """A network whose outputs are images."""

    classes = None

    def __init__(self) -> None:
        super().__init__()
        self.data = Batch(self.data.inputs, self.data.inputs)

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.inputs) - batch.targets).square().flatten(1).mean(1)


KINDS = {
    "mlp": Toy,
    "cnn": Pictures,
    "grey": GreyPictures,
    "transformer": Words,
    "series": Series,
    "restoring": Restoring,
}
# With what a fresh model puts out, these do nothing where their other knobs start.
LIVELY: dict[str, dict[str, Value]] = {
    "acls": {"acls_margin": 0.01},
    "consistency": {"consistency_threshold": 0.0},
    "imbsam": {"imbsam_tail": 1.0},
}


def off(record: Regularizer) -> dict[str, Value]:
    return {
        name: domain.off if domain.off is not None else domain.start_value()
        for name, domain in record.knobs.items()
    }


def on(record: Regularizer, unit: float = 0.6) -> dict[str, Value]:
    """A strength of every knob from this part of its range; choices keep their start."""
    return {name: _value(domain, unit) for name, domain in record.knobs.items()}


def _value(domain: Domain, unit: float) -> Value:
    if isinstance(domain, Choice) or domain.off is None:
        return domain.start_value()
    return domain.from_unit(unit) if domain.size is None else (domain.from_unit(unit),)  # type: ignore[return-value]


def follow(record: Regularizer, point: Mapping[str, Value]) -> Follow:
    return Follow(Schedule.constant(SearchSpace({}), {}).pin(record.knobs, point))


@cache
def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds of model that a record works on; any other it has to refuse with a sentence."""
    fitting = []
    for kind in KINDS:
        record = catalogue.load(name)
        try:
            list(train(KINDS[kind](), {name: record}, follow(record, on(record)), ONE_STEP, 0))
        except HpoError as error:
            assert error.message and error.hint, f"{name} on {kind}: {error}"
            continue
        fitting.append(kind)
    return tuple(fitting)
