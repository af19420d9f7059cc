"""A run before its first step, for regularizers that remember something of it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from objectives.training.evaluation import checked_loss
from objectives.training.randomness import GlobalStreams, derived_seed
from objectives.training.stream import as_batch, empty_split, one_pass
from objectives.training.task import Task, classes_of, task_name
from objectives.training.watch import averages_kept
from search_spaces.augmentation.vocabulary import Vocabulary
from search_spaces.errors import HpoError
from search_spaces.passes import Beginning
from search_spaces.regularizer import HOOKS, Batch, Regularizer


def beginning(
    task: Task, model: nn.Module, seed: int, device: torch.device, split: str = "train"
) -> Beginning:
    """The beginning of a run of a task, whose model has the weights it starts from."""

    def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
        with averages_kept(model):
            return checked_loss(task.loss(model, batch), len(batch.targets), task)

    def batches() -> Iterator[Batch]:
        drawn = GlobalStreams(derived_seed(seed, "beginning"), device)
        rng = torch.Generator().manual_seed(derived_seed(seed, "beginning"))
        with drawn.active():
            rest = one_pass(task, split, rng)
            raw = next(rest, None)
        if raw is None:
            raise empty_split(task, split)
        while raw is not None:
            inputs, targets = as_batch(raw, task, split)
            yield Batch(inputs.to(device), targets.to(device))
            with drawn.active():
                raw = next(rest, None)

    teacher = _teacher(task, seed, device)
    words = Vocabulary.of(task)
    return Beginning(model, losses, batches, classes_of(task), teacher, seed, device, words)


def _teacher(task: Task, seed: int, device: torch.device) -> nn.Module | None:
    """The task's teacher, frozen and in evaluation mode; None if it has none."""
    method = getattr(task, "teacher", None)
    if method is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**63)
        teacher = method(seed)
    if not isinstance(teacher, nn.Module):
        raise HpoError(
            f"objective {task_name(task)}: teacher(seed) gave {type(teacher).__name__}",
            hint="it must be a torch.nn.Module that is trained already",
            code="bad-task",
        )
    return copy.deepcopy(teacher).to(device).eval().requires_grad_(False)


def bound(
    regularizers: Mapping[str, Regularizer], begun: Beginning
) -> tuple[dict[str, Regularizer], dict[str, Any]]:
    """The regularizers with what they remember put into their hooks, and what each remembers."""
    found, memories = dict(regularizers), {}
    for name, record in regularizers.items():
        if record.remember is None:
            continue
        # Whatever it draws, and whatever the model draws for it, is not drawn in the run.
        apart = GlobalStreams(derived_seed(begun.seed, f"remember {name}"), begun.device)
        with apart.active():
            memory = memories[name] = record.remember(begun)
        hooks = [h for h in (*HOOKS, "rows", "learn") if getattr(record, h) is not None]
        filled: dict[str, Any] = {h: partial(getattr(record, h), memory) for h in hooks}
        found[name] = replace(record, remember=None, **filled)
    return found, memories
