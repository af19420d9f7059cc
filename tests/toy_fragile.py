"""A task whose process is killed once in the middle of its training."""

import os
import signal
from pathlib import Path

from torch import Tensor, nn
from toy_objectives import mark
from toy_tasks import Restless

from search_spaces.regularizer import Batch


class Fragile(Restless):
    """Killed before training step `at`, `times` times; marks lie in `folder`."""

    def __init__(self, folder: str, at: int = 0, times: int = 1) -> None:
        super().__init__()
        self.folder, self.at, self.times = folder, at, times
        self.steps = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            self.steps += 1
            killed = len(list(Path(self.folder).glob("killed-*")))
            if self.steps == self.at and killed < self.times:
                mark(self.folder, "killed")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


class Traced(Restless):
    """Leaves a mark with the process that it is trained in."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def model(self, seed: int) -> nn.Module:
        mark(self.folder, "pid")
        return super().model(seed)
