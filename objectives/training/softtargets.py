"""Targets as rows of class probabilities, which is what hooks that change targets work on."""

import torch
from torch import Tensor, nn

from objectives.training.task import Task, classes_of, task_name
from search_spaces.errors import HpoError

_NEAR = 1e-2  # of one: half precision and a blend of rows are no further off


class SoftTargets:
    """The targets of one run as probabilities.

    Looking at numbers makes the host wait for a GPU: there only the first batch is looked at.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._classes = task, classes_of(task)
        self._looked = False

    def made(self, targets: Tensor, user: str) -> Tensor:
        """Class numbers (B,) as rows of probabilities (B, C), for the regularizer `user`.

        HpoError where the number of classes is unknown, or a class is not among them.
        """
        if self._classes is None:
            raise HpoError(
                f"objective {task_name(self._task)}: {user} needs a number of classes",
                hint="give the task an attribute classes, or leave this knob out",
                code="bad-task",
            )
        if targets.ndim == 2 and targets.shape[1] == self._classes > 1 and self._one_hot(targets):
            raise HpoError(
                f"objective {task_name(self._task)}: {user} needs class numbers, found one-hot rows"
                f" of {targets.dtype}",
                hint="let batches() return class numbers (B,), or the rows as .float()",
                code="bad-batch",
            )
        numbers = targets.long()
        low, high = (int(numbers.min()), int(numbers.max())) if self._looks(numbers) else (0, 0)
        if low < 0 or high >= self._classes:
            raise HpoError(
                f"objective {task_name(self._task)}: found class {low if low < 0 else high}, "
                f"but its attribute classes is {self._classes}",
                hint=f"class targets must be 0 to {self._classes - 1}",
                code="bad-batch",
            )
        return nn.functional.one_hot(numbers, self._classes).to(torch.get_default_dtype())

    def blank(self, targets: Tensor) -> Tensor:
        """Rows of zeros of the shape that `made` gives, (B, 2) if the number of classes is unknown:
        a hook that is tried on them may ask the model for its losses."""
        return torch.zeros(len(targets), self._classes or 2, device=targets.device)

    def check(self, targets: Tensor, user: str) -> None:
        """HpoError unless every row of given targets (B, C) holds probabilities.

        Of another shape are those of no class at all, which `user` itself refuses.
        """
        if targets.ndim != 2 or targets.shape[1] < 2 or not self._looks(targets):
            return
        fit = ((targets.sum(1) - 1).abs() <= _NEAR) & (targets >= -_NEAR).all(1)
        if not bool(fit.all()):
            raise HpoError(
                f"objective {task_name(self._task)}: {user} needs targets whose rows are class"
                f" probabilities, found a row {_shown(targets[~fit][0])}",
                hint="each row must hold numbers from 0 on with the sum 1; for other targets, as of"
                " regression or of several labels at once, leave the knob out",
                code="bad-batch",
            )

    def _one_hot(self, targets: Tensor) -> bool:
        cpu = targets.device.type == "cpu"
        return (cpu or not self._looked) and bool((targets.long().clamp(min=0).sum(1) == 1).all())

    def _looks(self, targets: Tensor) -> bool:
        first, self._looked = not self._looked, True
        return first or targets.device.type == "cpu"


def _shown(row: Tensor) -> str:
    numbers = [f"{number:.3g}" for number in row.tolist()]
    return f"[{', '.join(numbers[:4])}{', ...' if len(numbers) > 4 else ''}]"
