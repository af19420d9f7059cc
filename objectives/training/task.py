"""What a training problem has to offer, and what it may offer beside."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from objectives.training.options import Training
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from search_spaces.regularizer import Batch

METHODS = ("model", "batches", "loss")
SPLITS = ("train", "validation", "test")


@runtime_checkable
class Task(Protocol):
    """Data, model and loss of one training problem: three methods.

    Optional attributes: `splits` (default train, validation, test; may hold "selection", the
    hold-out on which trials are compared), `classes` (how many, for class targets), `space` (knob
    defaults of this task), `training` (its own `Training` defaults), `note` (a phrase such as "300
    rows, 15% wrong labels"), `name`, `metrics(model, batch)` (a dict of per-example tensors,
    averaged in evaluation), `auxiliary_losses(model, batch)` (a dict of per-example tensors that
    are added to the loss in training only, each times the knob of its name in `space`), and
    `teacher(seed)` (a trained module for regularizers that distil).
    """

    def model(self, seed: int) -> "nn.Module":
        """A freshly initialised model; torch is seeded with `seed` around the call."""

    def batches(
        self, split: str, rng: "torch.Generator"
    ) -> "Iterator[Batch | tuple[torch.Tensor, torch.Tensor]]":
        """One pass over a split as (inputs, targets); if shuffled, in an order drawn from `rng`."""

    def loss(self, model: "nn.Module", batch: "Batch") -> "torch.Tensor":
        """The loss of a batch: one number for each example, shape (rows,), or their mean.

        With class targets it must accept soft ones, shape (rows, classes), if label smoothing or
        mixup is used; `torch.nn.functional.cross_entropy` does.
        """


def is_task(thing: object) -> bool:
    """Whether an object has the three methods of a task."""
    return not isinstance(thing, type) and all(callable(getattr(thing, m, None)) for m in METHODS)


def task_name(task: object) -> str:
    """How messages call a task: its `name` if it has one, else the name of its class."""
    name = getattr(task, "name", None)
    return name if isinstance(name, str) and name else type(task).__name__


def splits_of(task: object) -> tuple[str, ...]:
    """The names of the splits a task has."""
    return tuple(getattr(task, "splits", SPLITS))


def classes_of(task: object) -> int | None:
    """How many classes a task has; None when its targets are not classes."""
    classes = getattr(task, "classes", None)
    if classes is None:
        return None
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise HpoError(
            f"objective {task_name(task)}: classes is {classes!r}",
            hint="it must be a whole number of at least 2, or be left out",
            code="bad-task",
        )
    return classes


def training_of(task: object) -> Training:
    """The task's own training defaults, or the general ones."""
    training = getattr(task, "training", None)
    if training is None:
        return Training()
    if not isinstance(training, Training):
        raise HpoError(
            f"objective {task_name(task)}: its attribute training is a {type(training).__name__}",
            hint="it must be a Training(steps=..., ...) from the package objectives",
            code="bad-task",
        )
    return training


class Locked:
    """A task whose test split cannot be read; everything else is the task's own."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name == "_task":  # asked for before __init__, by copy and pickle
            raise AttributeError(name)
        return getattr(self._task, name)

    def model(self, seed: int) -> "nn.Module":
        return self._task.model(seed)

    def loss(self, model: "nn.Module", batch: "Batch") -> "torch.Tensor":
        return self._task.loss(model, batch)

    def batches(
        self, split: str, rng: "torch.Generator"
    ) -> "Iterator[Batch | tuple[torch.Tensor, torch.Tensor]]":
        if split == "test":
            raise HpoError(
                f"objective {task_name(self._task)}: the test split is locked during run",
                hint="hpo verify opens it",
                code="test-locked",
            )
        return self._task.batches(split, rng)


def locked(task: Task) -> Task:
    """A view of a task that refuses to hand out its test split."""
    return task if isinstance(task, Locked) else Locked(task)
