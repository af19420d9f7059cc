"""A policy with a gradient: weights over operations, gates and magnitudes that can be learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search_spaces import catalogue
from search_spaces.augmentation.dispatch import Plan, carried_out
from search_spaces.augmentation.images import images
from search_spaces.augmentation.policies import _each, _sparse
from search_spaces.augmentation.split import Split, column
from search_spaces.augmentation.values import Range
from search_spaces.domains import Choice, Float, Int
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, Strengths, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Those whose gradient in the amount is that of what they do, in this order in every vector.
_NAMES = "rotate shear_x shear_y translate_x translate_y scale brightness contrast sharpness erase"
OPERATIONS = tuple(_NAMES.split())
SIZE, MOST = len(OPERATIONS), 4


def augment(values: Range, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each image after `relaxed.operations` rounds of x + sum_i v_i g_i (operation_i(x) - x), of
    which at most two terms are not zero.

    With w = softmax(weights) and Gumbel draws G for each image, v is the relaxed choice among
    log w + G of `_sparse.pair`: its largest entry is the operation that a draw from w gives
    (mixing "softmax"). Under "max_w" the draws do not know the weights, and operation i acts at
    1 - max_j w_j + w_i: the favourite at full strength, others damped by their gap to it (Hundt et
    al. 2019). g is a relaxed Bernoulli gate, sigmoid((logit p + logit u) / temperature)
    (Maddison et al. 2017). The amount of i is `relaxed` * magnitudes_i of what the operation calls
    full, with a drawn sign where it goes both ways. Differentiable policies: Hataya et al. 2020,
    Li et al. 2020.

    For given draws the result is continuous in all knobs but the number of rounds, and
    differentiable but for a set of measure zero, so the gradient under fixed draws is an unbiased
    estimate of the gradient of the mean loss of this relaxed policy. Towards the policy that
    applies one operation outright it is biased as far as the temperature is above zero.
    """
    import torch

    inputs = images(batch.inputs, "relaxed")
    rounds = _each.per_row(h["relaxed.operations"], inputs).round()
    strength = _each.per_row(h["relaxed"], inputs)
    after = inputs
    for number, own in enumerate(_each.children(rng, MOST)):
        if bool((number < rounds).any()):
            changed = _round(after, values, h, own)
            acting = column((number < rounds) & (strength > 0), inputs)
            after = torch.where(acting, changed, after)
    return batch._replace(inputs=after)


def _round(inputs: Tensor, values: Range, h: Strengths, rng: torch.Generator) -> Tensor:
    """The images after one relaxed choice of an operation each."""
    rows = len(inputs)
    gumbel = -_logarithm(-_logarithm(uniform((rows, SIZE), inputs, rng)))
    coins = uniform((rows, SIZE), inputs, rng)
    weights = _vector(h["relaxed.weights"], inputs).log_softmax(1)
    temperature = _each.per_row(h["relaxed.temperature"], inputs)[:, None]
    chance = _vector(h["relaxed.probabilities"], inputs).logit(1e-6)
    scale = ((chance + coins.logit(1e-6)) / temperature).sigmoid()
    pool = weights + gumbel
    if h["relaxed.mixing"] == "max_w":
        likely = weights.exp()
        scale, pool = scale * (1 - likely.amax(1, keepdim=True) + likely), gumbel
    picked, shares = _sparse.pair(pool, temperature)
    strength = _each.per_row(h["relaxed"], inputs)[:, None]
    magnitudes = strength * _vector(h["relaxed.magnitudes"], inputs)
    changed = _both(inputs, picked, magnitudes, values, rng)
    parts = shares * scale.gather(1, picked)
    return inputs + (parts[..., None, None, None] * (changed - inputs[:, None])).sum(1)


def _both(
    inputs: Tensor, picked: Tensor, magnitudes: Tensor, values: Range, rng: torch.Generator
) -> Tensor:
    """Each image after either of its two picked operations, (B, 2, C, H, W).

    What an operation draws for an image does not depend on which of the two it is, else the result
    would jump where they change places.
    """
    import torch

    operations = [catalogue.operation(name) for name in OPERATIONS]
    coins = uniform(magnitudes.shape, inputs, rng)
    both = torch.tensor([operation.ways == "both" for operation in operations]).to(coins.device)
    full = magnitudes.new_tensor([operation.full for operation in operations])
    amounts = torch.where(both & (coins < 0.5), -full, full) * magnitudes
    twice = torch.arange(len(inputs), device=inputs.device).repeat_interleave(2)
    draws = {}
    for place, operation in enumerate(operations):
        if isinstance(operation.apply, Split) and operation.apply.draw is not None:
            draws[place] = operation.apply.draw(inputs, rng)[twice, None]
    plan = Plan(picked.reshape(-1, 1), amounts.gather(1, picked).reshape(-1, 1), draws)
    after = carried_out(inputs[twice], operations, plan, values)
    return after.reshape(len(inputs), 2, *inputs.shape[1:])


def _vector(value: Any, inputs: Tensor) -> Tensor:
    """A vector knob as one row for each example, (B, SIZE); numbers, or tensors (SIZE,) or
    (B, SIZE)."""
    import torch

    if isinstance(value, tuple | list):
        return torch.stack([_each.per_row(entry, inputs) for entry in value], dim=1)
    vector = torch.as_tensor(value, device=inputs.device).to(inputs.dtype)
    if vector.shape not in ((), (SIZE,), (len(inputs), SIZE)):
        raise HpoError(
            f"a vector of relaxed has shape {tuple(vector.shape)}",
            hint=f"it holds {SIZE} numbers, one for each of {', '.join(OPERATIONS)}",
            code="bad-shape",
        )
    return vector.expand(len(inputs), SIZE)


def _logarithm(draws: Tensor) -> Tensor:
    import torch

    return draws.clamp(min=torch.finfo(draws.dtype).tiny).log()


POLICY = Regularizer(
    knobs={
        "relaxed": Float(0.0, 1.0, start=0.5, off=0.0, limits=(0.0, 1.0)),
        "relaxed.weights": Float(-3.0, 3.0, start=0.0, size=SIZE),
        "relaxed.probabilities": Float(0.05, 0.95, start=0.5, size=SIZE, limits=(0.0, 1.0)),
        "relaxed.magnitudes": Float(0.0, 1.0, start=0.5, size=SIZE, limits=(0.0, 1.0)),
        "relaxed.temperature": Float(0.1, 2.0, "log", start=0.5, limits=(0.0, float("inf"))),
        "relaxed.operations": Int(1, 3, start=1, limits=(0, MOST)),
        "relaxed.mixing": Choice(("softmax", "max_w")),
    },
    batch=augment,
    remember=Range.seen,
    differentiable=True,
    note=f"images only; vectors are in the order {', '.join(OPERATIONS)}",
)
