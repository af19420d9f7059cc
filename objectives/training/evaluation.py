"""Metrics of a model on one split, without any regularizer."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from objectives.training.measurement import is_diagnostic
from objectives.training.stream import as_batch, empty_split, one_pass
from objectives.training.task import Task, classes_of, splits_of, task_name
from search_spaces.errors import HpoError
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch

# What a model's metrics add up to over the examples of a batch, in double precision on the CPU.
Sums: TypeAlias = Mapping[str, Tensor]


def evaluate(
    task: Task, model: nn.Module, split: str, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """The averages over the examples of a split: "loss", "error", and the task's own metrics.

    "error" is the share of examples whose largest output is not at their class; it is given for
    class targets when the model puts out one row of `classes` numbers for each example. The model
    is in evaluation mode, no gradient is kept.
    """
    if split not in splits_of(task):
        raise HpoError(
            f"objective {task_name(task)} has no split '{split}'",
            hint=f"its splits: {', '.join(splits_of(task))}",
            code="unknown-split",
        )
    classes = classes_of(task)
    with evaluating(model), torch.no_grad():
        found = averages(task, split, device, lambda batch: batch_sums(task, model, batch, classes))
    return {name: float(value) for name, value in found.items()}


def averages(
    task: Task, split: str, device: torch.device | str, sums_of: Callable[[Batch], Sums]
) -> dict[str, Tensor]:
    """The averages over the examples of a split, of what is summed up batch by batch."""
    sums: dict[str, Tensor] = {}
    rows = 0
    rng = torch.Generator().manual_seed(
        0
    )  # should the task shuffle: the same way at each evaluation
    for raw in one_pass(task, split, rng):
        inputs, targets = as_batch(raw, task, split)
        for name, value in sums_of(Batch(inputs.to(device), targets.to(device))).items():
            sums[name] = sums[name] + value if name in sums else value
        rows += len(targets)
    if rows == 0:
        raise empty_split(task, split)
    return {name: value / rows for name, value in sums.items()}


def held_out_splits(task: Task) -> dict[str, str]:
    """The splits that are measured in training, by the prefix of their metrics."""
    both = {"val": "validation", "holdout": "selection"}
    return both if "selection" in splits_of(task) else {"val": "validation"}


def unknown(task: Task, measured: Iterable[str]) -> dict[str, float]:
    """The held-out metrics of a model that is past measuring: nan, under the usual names and
    those that were measured before."""
    names = {name for name in measured if not is_diagnostic(name)} - {"train_loss"}
    kinds = ("loss", "error") if classes_of(task) else ("loss",)
    names |= {f"{prefix}_{kind}" for prefix in held_out_splits(task) for kind in kinds}
    return dict.fromkeys(sorted(names), math.nan)


def checked_loss(loss: object, rows: int, task: object) -> Tensor:
    """The loss of a batch if it is one number, or one for each example; else HpoError."""
    if not isinstance(loss, Tensor):
        raise _bad_loss(task, f"gave {type(loss).__name__}, not a tensor")
    if not loss.is_floating_point():
        raise _bad_loss(task, f"gave whole numbers ({loss.dtype})")
    if loss.ndim > 1 or (loss.ndim == 1 and len(loss) not in (1, rows)):
        raise _bad_loss(task, f"gave shape {tuple(loss.shape)} for a batch of {rows}")
    return loss


def require_gradient(loss: Tensor, task: object) -> None:
    """HpoError if a loss cannot be differentiated."""
    if not loss.requires_grad:
        raise HpoError(
            f"objective {task_name(task)}: the loss has no gradient",
            hint="loss must be computed from model(batch.inputs) without detach or item",
            code="bad-loss",
        )


def _bad_loss(task: object, found: str) -> HpoError:
    return HpoError(
        f"objective {task_name(task)}: loss {found}",
        hint="loss(model, batch) must give one number for each example, or their mean",
        code="bad-loss",
    )


def batch_sums(
    task: Task, model: nn.Module, batch: Batch, classes: int | None
) -> dict[str, Tensor]:
    """The metrics of a model, in evaluation mode, summed over the examples of a batch."""
    rows = len(batch.targets)
    with _outputs(model) as outputs:
        loss = checked_loss(task.loss(model, batch), rows, task)
    sums = {"loss": _summed(loss, rows)}
    if classes is not None and outputs:
        wrong = _wrong(outputs[-1], batch.targets, classes)
        if wrong is not None:
            sums["error"] = wrong
    metrics = getattr(task, "metrics", None)
    if callable(metrics):
        sums |= _metric_sums(metrics(model, batch), rows, task)
    return sums


def _summed(values: Tensor, rows: int) -> Tensor:
    return values.mean().cpu().double() * rows


@contextmanager
def _outputs(model: nn.Module) -> Iterator[list[Any]]:
    """Collects what the model puts out, so that the error costs no second forward pass."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _wrong(output: object, targets: Tensor, classes: int) -> Tensor | None:
    """How many examples are put into a wrong class; None if there are no classes to compare."""
    if not isinstance(output, Tensor) or output.shape != (len(targets), classes):
        return None
    if targets.ndim == 2 and targets.is_floating_point():
        targets = targets.argmax(dim=1)
    if targets.ndim != 1 or targets.is_floating_point():
        return None
    return (output.argmax(dim=1) != targets).sum().cpu().double()


def _metric_sums(metrics: object, rows: int, task: object) -> dict[str, Tensor]:
    if not isinstance(metrics, Mapping):
        raise HpoError(
            f"objective {task_name(task)}: metrics gave {type(metrics).__name__}, not a dict",
            hint='metrics(model, batch) must give {"name": tensor with one number per example}',
            code="bad-metrics",
        )
    sums = {}
    for name, value in metrics.items():
        number = torch.as_tensor(value).detach().cpu().double()
        if number.ndim > 1 or (number.ndim == 1 and len(number) not in (1, rows)):
            raise HpoError(
                f"objective {task_name(task)}: metric {name} has shape {tuple(number.shape)} "
                f"for a batch of {rows}",
                hint="give one number for each example, or their mean",
                code="bad-metrics",
            )
        sums[str(name)] = _summed(number, rows)
    return sums
