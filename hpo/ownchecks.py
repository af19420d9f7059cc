"""A first look at a user's own loop: what cannot be tuned in it is said before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from hpo.bilevel.gates.unseen import noting_blind, unseen_dropout
from hpo.bilevel.gates.unsuited import refuse_unsuited
from hpo.bilevel.ownloop.ownloop import Loss, OwnLoop, Validation
from hpo.bilevel.stn.options import SelfTuningOptions
from objectives.training.evaluation import checked_loss
from search_spaces.errors import HpoError
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch, Regularizer

_tuned: WeakSet[nn.Module] = WeakSet()  # by tuners that are open


def claim(model: nn.Module) -> Callable[[], None]:
    """Marks a model as being tuned; gives back what ends that."""
    modules = list(model.modules())
    _tuned.update(modules)
    return lambda: _tuned.difference_update(modules)


def refuse_second_tuner(model: nn.Module) -> None:
    """HpoError for a model of which any part is being tuned."""
    if any(module in _tuned for module in model.modules()):
        raise HpoError(
            "this model is being tuned already",
            hint="close that tuner (tuner.close()), or build the model anew if it is out of reach;"
            " `with hpo.self_tune(...) as tuner:` closes it whatever happens",
            code="tuned-already",
        )


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
    _check_optimizer(optimizer)
    _check_options(options)


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise HpoError(
            "LBFGS looks at a batch many times in one step, in which the knobs must not change",
            hint="tune with Adam or SGD, then train with the schedule that they find",
            code="bad-optimizer",
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise HpoError(
            "SparseAdam steps sparse gradients only, but those of the gates are dense",
            hint="SGD and Adagrad step both; or make the embedding dense and use Adam",
            code="bad-optimizer",
        )


def _check_options(options: SelfTuningOptions) -> None:
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


def check_batch(inputs: object, targets: object) -> None:
    """HpoError for what is given to `tuner.batch` and is no batch."""
    for role, part in (("inputs", inputs), ("targets", targets)):
        if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != len(targets):  # type: ignore[arg-type]
            raise HpoError(
                f"tuner.batch was given {role} of the kind {kind_of(part)}",
                hint="inputs and targets are two tensors with one row for each example",
                code="bad-batch",
            )
        if len(part) == 0:
            raise HpoError(
                f"tuner.batch was given {role} without a row",
                hint="leave out empty batches: there is no step to take for them",
                code="bad-batch",
            )


@dataclass(frozen=True)
class Look:
    """What one validation batch has shown: `outputs` of the model, `notes` on what is not tuned,
    the layers that are run without gradients."""

    batch: Batch
    outputs: Any
    notes: list[str]
    blind: Mapping[nn.Module, HpoError]


def look(loop: OwnLoop) -> Look:
    """Runs one validation batch; sets how many classes there are, where the outputs say it."""
    batch = loop.first_batch()
    outputs: list[Any] = []

    def forward() -> None:
        with evaluating(loop.model):
            outputs.append(loop.model(batch.inputs))

    with noting_blind(loop.model) as blind:
        notes = unseen_dropout(loop.model, forward)
    task, found = loop.task, outputs[-1]
    rows = len(batch.targets)
    if task.classes is None and isinstance(found, Tensor) and found.shape[:-1] == (rows,):
        task.classes = found.shape[-1] if found.shape[-1] > 1 else None
    return Look(batch, found, notes, blind)


@torch.no_grad()
def try_targets(
    loop: OwnLoop, seen: Look, regularizers: Mapping[str, Regularizer], point: Mapping[str, Any]
) -> None:
    """HpoError for a loss that is none, and where a knob makes probabilities of class targets that
    the loss cannot take, or without that the number of classes is known."""
    task, targets = loop.task, seen.batch.targets
    checked_loss(task.losses(seen.outputs, targets), len(targets), task)
    who = None if targets.is_floating_point() else _changing_targets(seen, regularizers, point)
    if who is None:
        return
    if task.classes is None:
        raise HpoError(
            f"{who} makes probabilities of class targets, and the outputs of this model"
            f" ({kind_of(seen.outputs)}) do not say how many classes there are",
            hint=f"say it: self_tune(..., classes=10); or leave out {who}",
            code="bad-task",
        )
    numbers = targets.long().clamp(0, task.classes - 1)
    soft = nn.functional.one_hot(numbers, task.classes).to(torch.get_default_dtype())
    try:
        task.losses(seen.outputs, soft)
    except Exception as error:  # of whatever kind the loss raises
        raise HpoError(
            f"the loss cannot take the probabilities that {who} makes of class targets:"
            f" {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint=f"torch.nn.functional.cross_entropy of the logits can; or leave out {who}",
            code="bad-loss",
        ) from error


def _changing_targets(
    seen: Look, regularizers: Mapping[str, Regularizer], point: Mapping[str, Any]
) -> str | None:
    """The first regularizer that cannot do with class numbers."""
    soft = torch.zeros(len(seen.batch.targets), 2, device=seen.batch.targets.device)
    for name, regularizer in sorted(regularizers.items()):
        if regularizer.target is not None:
            return name
        if regularizer.batch is not None:  # of these only trying says it
            rests = {knob: domain.start_value() for knob, domain in regularizer.knobs.items()}
            draws = torch.Generator(soft.device).manual_seed(0)
            batch = seen.batch._replace(targets=soft)
            knobs: dict[str, Any] = {**rests, **point}
            if regularizer.batch(batch, knobs, draws).targets is not soft:
                return name
    return None


def kind_of(part: object) -> str:
    """How messages call what was given: the shape of a tensor, else the type."""
    return str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__


def refuse_scaled(grad: Tensor) -> None:
    """HpoError for a loss that a scaler has multiplied, by the gradient that comes back to it."""
    if float(grad.detach()) > 1.0 + 1e-6:
        raise HpoError(
            f"the loss was multiplied by {float(grad.detach()):g} before its backward pass",
            hint="a GradScaler is for float16; tune in bfloat16, which needs none",
            code="scaled-loss",
        )


def out_of_order(found: str) -> HpoError:
    """The error for calls in an order in which nothing can be learned."""
    return HpoError(
        found,
        hint="each step calls tuner.batch, tuner.loss, loss.backward, optimizer.step, tuner.step",
        code="bad-order",
    )


def never_stepped(optimizer: object, steps: int) -> HpoError:
    """The error for an optimizer that is not the one that steps."""
    return HpoError(
        f"in {steps} steps the {type(optimizer).__name__} was not seen to step once",
        hint="give self_tune the optimizer whose step() the loop calls (of one that wraps another,"
        " the inner one), and call tuner.step() after it",
        code="bad-order",
    )
