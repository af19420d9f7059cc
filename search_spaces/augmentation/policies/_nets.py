"""The small networks that policies learn, and the steps they learn by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search_spaces.augmentation.judging import Judge
from search_spaces.augmentation.values import Range
from search_spaces.regularizer import Strength, Strengths, pooled

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.passes import Beginning

WIDTH = 8


@dataclass(frozen=True)
class Learned:
    """What a policy learns within a run, what trains it, and what it is trained by."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    judge: Judge

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


def constant(h: Strengths) -> dict[str, Any]:
    """The strengths without what they were computed from: what learns beside a step is no part of
    its gradient."""
    return {k: v.detach() if hasattr(v, "detach") else v for k, v in h.items()}


def encoder(channels: int, outputs: int) -> nn.Module:
    """Two convolutions, their mean over the image, and a linear layer that begins at zero."""
    from torch import nn

    last = nn.Linear(2 * WIDTH, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        last,
    )


def painter(channels: int, outputs: int) -> nn.Module:
    """Two convolutions with an output for each cell of 4 x 4 pixels; the last begins at zero."""
    from torch import nn

    last = nn.Conv2d(WIDTH, outputs, 3, stride=2, padding=1)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1), nn.ReLU(), last)


def unit(inputs: Tensor, values: Range) -> Tensor:
    """The inputs as a network takes them: in single precision, between -1 and 1."""
    return (2 * (inputs - values.low) / max(values.high - values.low, 1e-12) - 1).float()


def seeded(beginning: Beginning, make: Callable[[int], nn.Module]) -> nn.Module:
    """The network for the channels of the run's images, with weights drawn from its seed, on its
    device."""
    import torch

    channels = next(iter(beginning.batches())).inputs.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(beginning.seed)
        return make(channels).to(beginning.device).float()  # as `unit` gives the images


def optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """Adam for the network; each step says how far it goes."""
    import torch

    return torch.optim.Adam(net.parameters(), lr=1e-3)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: Strength) -> None:
    """Moves the network, and nothing else, down the gradient of a loss."""
    import torch

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for group in optimizer.param_groups:
        group["lr"] = float(pooled(rate))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
