"""Auxiliary losses: what a task adds to its loss in training, each with a weight that is a knob."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from objectives.training.task import Task, task_name
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, spread


def auxiliary_loss(
    task: Task, model: nn.Module, batch: Batch, knobs: Mapping[str, Any]
) -> Tensor | None:
    """The mean over the examples of the sum of weight * loss; None if the task has no such losses.

    The weight of a loss is the knob of its name: one number, or one for each example. Where
    nothing gives it, it is the start of that knob in the task's `space`. HpoError for a loss
    without a knob there, and for one that is not one number for each example.
    """
    method = getattr(task, "auxiliary_losses", None)
    if method is None:
        return None
    losses = method(model, batch)
    if not isinstance(losses, Mapping):
        raise _bad(task, f"gave {type(losses).__name__}, not a dict")
    total: Tensor | None = None
    for name, values in losses.items():
        if not isinstance(values, Tensor) or values.shape != batch.targets.shape[:1]:
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise _bad(task, f"gave {found} for {name}")
        weight = knobs[name] if name in knobs else _start(task, name)
        if isinstance(weight, tuple):
            raise HpoError(
                f"knob {name} is a vector, but an auxiliary loss takes one weight",
                hint=f"leave out size: of {name}",
                code="bad-vector",
            )
        weighted = (spread(weight, values) * values).mean()
        total = weighted if total is None else total + weighted
    return total


def _start(task: Task, name: str) -> Any:
    space = getattr(task, "space", None) or {}
    if name not in space:
        raise HpoError(
            f"objective {task_name(task)}: auxiliary loss {name} has no knob for its weight",
            hint=f'declare it in the attribute space of the task: {{"{name}": '
            'Float(1e-3, 10, "log", start=0.1)}',
            code="bad-task",
        )
    return space[name].start_value()


def _bad(task: Task, found: str) -> HpoError:
    return HpoError(
        f"objective {task_name(task)}: auxiliary_losses {found}",
        hint='it must give {"name": tensor with one number for each example of the batch}',
        code="bad-loss",
    )
