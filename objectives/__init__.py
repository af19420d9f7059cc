"""What is trained: tasks, the one training loop, and the built-in objectives, one public file each.

The names below are loaded on first use, so that importing this package does not import torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objectives.training.evaluation import evaluate as evaluate
    from objectives.training.loop import train as train
    from objectives.training.measurement import Measurement as Measurement
    from objectives.training.options import Training as Training
    from objectives.training.resolve import resolve as resolve
    from objectives.training.sites import Branch as Branch
    from objectives.training.task import Task as Task
    from objectives.training.task import is_task as is_task
    from search_spaces.regularizer import Batch as Batch

_HOME = {
    "Batch": "search_spaces.regularizer",
    "Branch": "objectives.training.sites",
    "Measurement": "objectives.training.measurement",
    "Task": "objectives.training.task",
    "Training": "objectives.training.options",
    "evaluate": "objectives.training.evaluation",
    "is_task": "objectives.training.task",
    "resolve": "objectives.training.resolve",
    "train": "objectives.training.loop",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'objectives' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
