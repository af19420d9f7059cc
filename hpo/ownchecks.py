"""A first look at a user's own loop: what cannot be tuned in it is said before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hpo.bilevel.options import SelfTuningOptions
from hpo.bilevel.ownloop import Loss, OwnLoop, Validation
from hpo.bilevel.unseen import unseen_dropout
from hpo.bilevel.unsuited import refuse_unsuited
from objectives.training.evaluation import evaluating
from search_spaces.errors import HpoError


def check_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    validation: Validation,
    loss: Loss,
    steps: int,
    options: SelfTuningOptions,
) -> None:
    """HpoError for what is given to `self_tune` and cannot be tuned with."""
    refuse_unsuited(model)
    if isinstance(validation, Iterator) or not (
        isinstance(validation, Iterable) or callable(validation)
    ):
        raise HpoError(
            f"validation is a {type(validation).__name__}, which gives its batches at most once",
            hint="give a loader or a list of (inputs, targets), or a function that gives a batch",
            code="bad-batch",
        )
    if not callable(loss):
        raise HpoError(
            f"loss is of the kind {kind_of(loss)}, not a function of (outputs, targets)",
            hint="for example loss=torch.nn.functional.cross_entropy",
            code="bad-loss",
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise HpoError(
            f"steps is {steps!r}",
            hint="it is the whole number of optimizer steps that the loop takes in all",
            code="bad-training",
            found=steps,
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise HpoError(
            "LBFGS looks at a batch many times in one step, in which the knobs must not change",
            hint="tune with Adam or SGD, then train with the schedule that they find",
            code="bad-optimizer",
        )
    if options.audit:
        raise HpoError(
            "an audit trains again from where it stands, which a loop of your own cannot",
            hint="leave audit out, or use hpo.run with sampler stn",
            code="refused",
            found=options.audit,
        )
    if options.response != "gains":
        raise HpoError(
            f"response is {options.response!r}: the published forms have a loop of their own",
            hint="leave response out, or use hpo.run with sampler stn",
            code="refused",
            found=options.response,
        )


def look(loop: OwnLoop) -> list[str]:
    """Runs one validation batch: sets how many classes there are; gives back what is not tuned."""
    batch = loop.next_batch()
    outputs: list[Any] = []

    def forward() -> None:
        with evaluating(loop.model):
            outputs.append(loop.model(batch.inputs))

    notes = unseen_dropout(loop.model, forward)
    task, found = loop.task, outputs[-1]
    rows = len(batch.targets)
    if task.classes is None and isinstance(found, Tensor) and found.shape[:-1] == (rows,):
        task.classes = found.shape[-1] if found.shape[-1] > 1 else None
    return notes


def kind_of(part: object) -> str:
    """How messages call what was given: the shape of a tensor, else the type."""
    return str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__
