"""Tasks whose trials are carried out together, or cannot be."""

from typing import Any, ClassVar

from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn import functional
from toy_tasks import Blobs

from objectives.training.options import Training
from search_spaces.domains import Choice
from search_spaces.regularizer import Batch


class Small(Blobs):
    """Trains in a moment."""

    training: ClassVar = Training(steps=12, evaluations=4, learning_rate=0.02)


class Long(Blobs):
    """Is measured often, so that something can happen meanwhile."""

    training: ClassVar = Training(steps=120, evaluations=24, learning_rate=0.02)

    def __init__(self) -> None:
        super().__init__(batch_size=45)


class Optional(Small):
    space: ClassVar = {"kind": Choice(("a", "b"))}


class Recurrent(Small):
    def model(self, seed: int) -> nn.Module:
        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.outer = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.outer(self.inner(x[:, None])[0][:, -1])

        return Last()


class Looks(Small):
    """Its loss looks at a number."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().loss(model, batch)
        return losses if losses.mean().item() < 100 else losses / 2


class Remembers(Small):
    """Its loss depends on how many losses there were before, in all models together."""

    count = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.count += 1
        return super().loss(model, batch) * self.count


class Wide(Small):
    """Too large for operations to wait for each other."""

    def __init__(self) -> None:
        super().__init__(rows=400, batch_size=200)

    def model(self, seed: int) -> nn.Module:
        layers = [nn.Linear(4, 700), nn.ReLU(), nn.Linear(700, 700), nn.ReLU(), nn.Linear(700, 3)]
        return nn.Sequential(*layers)


class Raises(Small):
    """Raises, once it has made as many steps, an error of a kind; `alone`: in runs by themselves
    as well."""

    def __init__(self, steps: int, memory: bool = False, alone: bool = False) -> None:
        super().__init__()
        self.steps, self.memory, self.alone = steps, memory, alone
        self.made = 0

    def model(self, seed: int) -> nn.Module:
        self.made = 0
        return super().model(seed)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        self.made += model.training
        if self.made > self.steps and (self.alone or is_batchedtensor(model[0].weight)):
            raise MemoryError("too many") if self.memory else ValueError(f"at step {self.made}")
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class Cramped(Small):
    """Cannot be trained side by side for long; by itself it runs out of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def loss(self, model: Any, batch: Batch) -> Tensor:
        self.made += 1
        if self.made > 40:  # not while it is tried out whether trials can go together
            raise (ValueError if is_batchedtensor(model[0].weight) else MemoryError)("too many")
        return super().loss(model, batch)
