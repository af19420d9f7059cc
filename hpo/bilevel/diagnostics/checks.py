"""Looks at a run from beside: what they do leaves weights, buffers and random draws as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from hpo.bilevel.beside import beside
from objectives.training.evaluation import checked_loss
from objectives.training.stream import as_batch, one_pass
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch

if TYPE_CHECKING:
    from objectives.training.state import Run

# Knobs for a batch, and what turns the response to them on or off.
Offer: TypeAlias = tuple[Mapping[str, Any], Callable[[bool], None]]

_TIMES = 3  # a step is timed; the fastest counts, for nothing but the machine makes it slower


def response_gain(run: Run, batch: Batch, offers: Sequence[Offer]) -> Tensor:
    """The loss of each example (rows,) with the response off minus that with it on, averaged over
    the offers.

    An offer is knobs, and what turns the response to them on or off; the last one is left on. Two
    offers should be given, perturbed by the same amounts with opposite signs: what is linear in
    them, which is most of the noise and none of the gain, then cancels within each example. Both
    losses see the same noise and masks, and the penalty, as they would in training; the batch
    should be one that the response has not just been trained on. A task that gives the mean loss
    alone gives one number.
    """
    gains = []
    for knobs, switch in offers:
        losses = []
        for on in (False, True):
            with beside(run), torch.no_grad():
                switch(on)
                losses.append(_losses(run, batch, knobs))
        gains.append(losses[0] - losses[1])
    return torch.stack(gains).mean(0)


def plain_loss(run: Run, split: str, most: int) -> float:
    """The mean loss without any regularizer over the first rows of a split, at least `most` of them
    where it has so many; nan if it has none."""
    total, rows = 0.0, 0
    with beside(run), evaluating(run.model), torch.no_grad():
        for raw in one_pass(run.task, split, torch.Generator().manual_seed(0)):
            inputs, targets = as_batch(raw, run.task, split)
            batch = Batch(inputs.to(run.device), targets.to(run.device))
            loss = checked_loss(run.task.loss(run.model, batch), len(targets), run.task)
            total, rows = total + float(loss.mean()) * len(targets), rows + len(targets)
            if rows >= most:
                break
    return total / rows if rows else float("nan")


def rows_of(run: Run, split: str) -> int:
    """How many examples a split has, 0 if nobody can know; if need be, it is read once."""
    told = getattr(run, "validation_rows", None)  # of a loop of one's own
    known = told() if told is not None and split == "validation" else None
    if known is not None:
        return int(known)
    with beside(run):
        passed = one_pass(run.task, split, torch.Generator().manual_seed(0))
        return sum(len(as_batch(raw, run.task, split).targets) for raw in passed)


def step_seconds(
    run: Run, batch: Batch, offer: Offer, answers: Iterable[nn.Parameter]
) -> tuple[float, float]:
    """Seconds of forward and backward pass with the response, whose parameters are `answers`, and
    without it; no step is taken, no gradient left. The response is left on."""
    knobs, switch = offer
    # All of the model: another optimizer may step what this run's does not.
    wanted = [*(p for p in run.model.parameters() if p.requires_grad), *answers]
    best = {True: float("inf"), False: float("inf")}
    for on in (False, True) * _TIMES:
        with beside(run):
            switch(on)
            begun = clock(run)
            loss, penalty = run.regularized_loss(batch, knobs)
            total = loss if penalty is None else loss + penalty
            with _leaving_gradients(wanted):
                # Not autograd.grad: re-entrant activation checkpointing does not go with it.
                total.backward()  # type: ignore[no-untyped-call]
                best[on] = min(best[on], clock(run) - begun)
    return best[True], best[False]


def clock(run: Run) -> float:
    """The time in seconds when all that was asked of the device so far is done."""
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter()


def kept_bytes(answers: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """What a response keeps between steps: parameters, their gradients, their optimizer's state."""
    states = [value for state in optimizer.state.values() for value in state.values()]
    kept = sum(value.nbytes for value in states if isinstance(value, Tensor))
    return kept + 2 * sum(parameter.nbytes for parameter in answers)


def _losses(run: Run, batch: Batch, knobs: Mapping[str, Any]) -> Tensor:
    """What training minimizes, for each example; its penalty is added to every one."""
    each, auxiliary = run.regularization.loss(run.model, batch, knobs)
    for added in (auxiliary, run.regularization.penalty(run.effective(), knobs)):
        if added is not None:
            each = each + added
    return each.flatten()


@contextmanager
def _leaving_gradients(parameters: Sequence[nn.Parameter | Tensor]) -> Iterator[None]:
    """Within it gradients are none; afterwards they are what they were."""
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.grad = grad
