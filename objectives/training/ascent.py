"""A step whose gradient is taken uphill of the parameters: sharpness-aware minimisation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from objectives.training.evaluation import require_gradient
from objectives.training.watch import averages_kept
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch

if TYPE_CHECKING:
    from objectives.training.state import Run


def backward_uphill(run: "Run", batch: Batch, knobs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Leaves in the parameters the gradient of a step and gives back the loss, and the loss with
    its penalty, at the parameters themselves.

    The losses of some rows (all, unless the regularizer names them) are taken at the parameters
    that its `ascent` gives from their own gradient; those of the others, penalties, and what is
    added to the mean at the parameters themselves. Both passes have the same random draws.
    """
    draws = run.noise.get_state(), run.streams.now()
    losses, added = run.regularization.loss(run.model, batch, knobs)
    passed = run.regularization.last_pass()
    require_gradient(losses, run.task)
    rows = _rows(run, batch, losses, knobs)
    uphill, rest = _split(losses, rows)
    penalty = run.regularization.penalty(run.effective(), knobs)
    for part in (added, penalty):
        if part is not None:
            rest = part if rest is None else rest + part
    gradients = _gradients(uphill, run.parameters)
    if rest is not None and rest.requires_grad:
        rest.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        start = {name: p.detach().clone() for name, p in run.parameters.items()}
        shifted = run.regularization.ascent(start, gradients, knobs)
        _put(run, shifted)
    after = run.noise.get_state(), run.streams.now()
    run.noise.set_state(draws[0])
    run.streams.rewind(draws[1])
    try:
        with averages_kept(run.model):
            again, _ = run.regularization.loss(run.model, batch, knobs)
        _split(again, rows)[0].backward()  # type: ignore[no-untyped-call]
    finally:
        with torch.no_grad():
            _put(run, start)
        run.noise.set_state(after[0])
        run.streams.rewind(after[1])
    run.regularization.keep_pass(passed)  # what learns, learns from where the weights are
    mean = losses.mean() if added is None else losses.mean() + added
    return mean, mean if penalty is None else mean + penalty


def _gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a loss whose graph is still needed, by name; zero where it has none."""
    grads = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    pairs = zip(parameters.items(), grads, strict=True)
    return {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}


def _rows(run: "Run", batch: Batch, losses: Tensor, knobs: Mapping[str, Any]) -> Tensor | None:
    """Which examples' losses are taken uphill, (B,); None: all."""
    rows = run.regularization.uphill_rows(batch, knobs)
    if rows is None:
        return None
    if losses.shape != (len(batch.targets),):
        raise HpoError(
            "a step that takes the gradient of some examples uphill needs the loss of each",
            hint='let the task\'s loss give them (reduction="none"), or leave this knob out',
            code="bad-loss",
        )
    return rows


def _split(losses: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The part of the mean that is taken uphill, and the rest of it."""
    if rows is None:
        return losses.mean(), None
    count = max(1, losses.numel())
    return losses[rows].sum() / count, losses[~rows].sum() / count


def _put(run: "Run", tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in run.parameters.items():
        parameter.copy_(tensors[name])
