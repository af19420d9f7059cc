"""Virtual adversarial training: predictions stay where a small change of the inputs would move
them most; the strength is the weight of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float, Int
from search_spaces.regularizer import Regularizer, Strengths, real, spread
from search_spaces.regularizers._nearby import directions, length, like, probe
from search_spaces.rewinding import rewinding

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def smoothness(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """vat * KL(p(x) || p(x + r)) for each example, with p(x) held fixed.

    (Miyato et al. 2018, section 3.1.) r has the norm `vat_radius`, in units of the inputs and
    for each example by itself, and the direction in which the divergence grows fastest, which
    `vat_steps` steps of power iteration find from a random one (their section 3.2). All passes of a
    step share their draws, so that dropout is not taken for a change of the prediction.
    """
    from torch.nn import functional

    inputs = real(p.batch.inputs, "vat")
    p.logits("vat")
    direction = directions(inputs, rng)
    rewind = rewinding(rng, inputs)
    # Its graph is thrown away; but self-tuning layers refuse to be run where no gradient is.
    fixed = functional.log_softmax(p.again(inputs).detach(), dim=1)

    def divergence(change: Tensor) -> Tensor:
        rewind()
        moved = functional.log_softmax(p.again(inputs + change), dim=1)
        return (fixed.exp() * (fixed - moved)).sum(dim=1)

    direction = _steepest(divergence, direction, probe(inputs, p.outputs), h)
    moved = divergence(spread(h["vat_radius"], inputs) * direction)
    return spread(h["vat"], moved) * moved


def _steepest(
    divergence: Callable[[Tensor], Tensor], start: Tensor, short: Tensor, h: Strengths
) -> Tensor:
    """The unit vectors that so many steps of power iteration turn those of the start into.

    At r = 0 the divergence and its gradient vanish, so that the gradient a short way off is the
    Hessian times the way. A number of steps between whole ones is the nearest of them.
    """
    import torch

    steps = like(spread(h["vat_steps"], start), start).round()
    direction = start
    for taken in range(int(steps.max())):
        change = (short * direction).detach().requires_grad_()
        with torch.enable_grad():  # a loss may be looked at without gradients
            total = divergence(change).sum()
        # The graph is kept, since who follows hypergradients may go through every pass there was.
        (slope,) = torch.autograd.grad(total, change, retain_graph=True)
        norm = length(slope)
        turned = torch.where(norm > 0, slope / norm, direction)
        direction = torch.where(steps > taken, turned, direction)
    return direction.detach()


REGULARIZER = Regularizer(
    knobs={
        "vat": Float(0.1, 10.0, scale="log", start=1.0, off=0.0, limits=(0.0, float("inf"))),
        "vat_radius": Float(0.1, 10.0, scale="log", start=1.0, limits=(0.0, float("inf"))),
        "vat_steps": Int(1, 3, start=1, limits=(1, float("inf"))),
    },
    loss_output=smoothness,
    differentiable=True,
    note="classification only; three more passes a step; the radius is in units of the inputs",
)
