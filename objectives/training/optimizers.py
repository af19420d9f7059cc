"""The optimizers of the loop, none with a weight decay of its own."""

from collections.abc import Iterable

import torch
from torch import Tensor

from objectives.training.options import Training


def build_optimizer(parameters: Iterable[Tensor], training: Training) -> torch.optim.Optimizer:
    """The optimizer that a training asks for.

    Decoupled weight decay is a regularizer whose hook runs just before the step, so `adamw` here is
    Adam; with that regularizer it is AdamW (Loshchilov and Hutter, 2019).
    """
    rate = training.learning_rate
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)
    momentum = training.momentum if training.optimizer == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum, fused=True)


def highest_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the group that learns fastest: others may be frozen or held back."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def scale_gradients(parameters: Iterable[Tensor], factor: float | Tensor) -> list[Tensor]:
    """Multiplies the gradients that there are by a factor, as clipping has those of others; gives
    them back."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if grads and (isinstance(factor, Tensor) or factor != 1.0):  # a tensor's number is not asked
        torch._foreach_mul_(grads, factor)
    return grads


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
