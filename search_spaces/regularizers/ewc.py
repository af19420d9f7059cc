"""Elastic weight consolidation: distance from the start, dearer where the start was sure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces import asking
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch, Regularizer, Strengths
from search_spaces.regularizers._matrices import precise, scaled_sum

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning

EXAMPLES = 256  # each is a pass of its own, since squares of gradients do not add up in a batch
PARTS = 16  # outputs beyond so many are taken together at random
MOST = 10.0  # importance beyond so many times the mean would make steps of gradients unstable


@dataclass(frozen=True)
class Anchor:
    """Where a run began, and how much each parameter mattered there; by name."""

    start: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]


def anchor(beginning: Beginning) -> Anchor:
    """The weights at the start, and their Fisher information divided by its mean over them all, and
    cut at ten times it.

    The division makes strengths mean the same whatever the loss is measured in, and the same as
    those of l2_to_start, which is the case of equal information everywhere. The cut is there since
    a few parameters have hundreds of times the mean: a gradient step along them would overshoot
    long before the penalty means anything to the rest.
    """
    import torch

    fisher = diagonal_fisher(beginning)
    count = sum(each.numel() for each in fisher.values())
    mean = torch.stack([each.sum() for each in fisher.values()]).sum() / count
    least = torch.finfo(mean.dtype).tiny  # a model without any information: no penalty
    importance = {n: (each / mean.clamp(min=least)).clamp(max=MOST) for n, each in fisher.items()}
    return Anchor(beginning.weights(), importance)


def penalty(at: Anchor, parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength / 2 * sum of F (w - w_start)^2 over all trained parameters.

    Kirkpatrick et al. 2017, eq. 3. F is the diagonal of the Fisher information at the start on the
    data of this run, in units of its mean (see `anchor`): begin with the weights of an earlier
    task, and let this task's data look like that one's, or else l2_to_start is the sounder choice.
    """
    terms = [
        0.5 * (at.importance[name] * (precise(parameters[name]) - precise(begun)).square()).sum()
        for name, begun in at.start.items()
        if name in parameters  # with a strength for each layer: the parameters of one
    ]
    return scaled_sum(h["ewc"], terms)


def diagonal_fisher(beginning: Beginning) -> dict[str, Tensor]:
    """The mean over examples of E[(d log p(y | x) / dw)^2], y from the model's own prediction.

    The expectation over y is exact up to 16 outputs; beyond, it is a mean over 16 random
    combinations, right on average. Outputs are logits where the task has classes (one output for
    two of them: the logit of the second) and otherwise means of a Gaussian of variance one. Of the
    training split the first 256 examples are used, in evaluation mode.
    """
    import torch

    model = beginning.model
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    totals = {name: torch.zeros_like(precise(p.detach())) for name, p in named.items()}
    rng, seen = torch.Generator().manual_seed(beginning.seed % 2**63), 0
    with evaluating(model), torch.enable_grad():
        for row in _rows(beginning):
            found = asking.outputs(beginning.losses, model, row, "ewc")
            parts = _few(_roots(found, beginning.classes), rng)
            for place, part in enumerate(parts):
                more = place + 1 < len(parts)
                grads = torch.autograd.grad(
                    part, list(named.values()), retain_graph=more, allow_unused=True
                )
                for name, grad in zip(named, grads, strict=True):
                    if grad is not None:
                        totals[name] += precise(grad).square()
            seen += 1
    return {name: total / max(seen, 1) for name, total in totals.items()}


def _rows(beginning: Beginning) -> Iterator[Batch]:
    """The first examples, each as a batch of its own."""
    import torch

    left = EXAMPLES
    for batch in beginning.batches():
        rows = [torch.split(part[:left], 1) for part in batch]
        yield from map(Batch, *rows)
        left -= len(rows[0])
        if left == 0:
            return


def _roots(outputs: Tensor, classes: int | None) -> Tensor:
    """Numbers of one example whose squared gradients sum to those that the Fisher averages."""
    if outputs.ndim > 2 or len(outputs) != 1:
        raise HpoError(
            "ewc needs outputs (B, C) or (B,), found for one example "
            f"{tuple(outputs.shape) if outputs.ndim else 'a number'}",
            hint="leave its knob out of the space; l2_to_start works with any model",
            code="unsuited-model",
        )
    numbers = outputs.reshape(-1)
    if classes is None:
        return numbers
    if len(numbers) == 1:
        import torch

        numbers = torch.cat([torch.zeros_like(numbers), numbers])
    logs = numbers.log_softmax(0)
    weighted: Tensor = logs.detach().exp().sqrt() * logs
    return weighted


def _few(parts: Tensor, rng: torch.Generator) -> Tensor:
    """The parts, or 16 of their combinations with random signs, whose squares are right on
    average."""
    import torch

    if len(parts) <= PARTS:
        return parts
    signs = torch.randint(0, 2, (PARTS, len(parts)), generator=rng) * 2 - 1
    few: Tensor = signs.to(parts) @ parts / PARTS**0.5
    return few


REGULARIZER = Regularizer(
    knobs={"ewc": Float(1e-5, 1.0, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf")))},
    remember=anchor,
    penalty=penalty,
    differentiable=True,
    note="for runs that begin from trained weights; reads 256 examples before the first step",
)
