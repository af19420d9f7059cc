"""What the policies share: lists of operations, a number for each row, one operation an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search_spaces.augmentation.dispatch import Plan, carried_out, planned
from search_spaces.augmentation.operation import prepared
from search_spaces.augmentation.split import Split, column
from search_spaces.augmentation.values import Range
from search_spaces.catalogue import operation
from search_spaces.regularizer import Strength, spread, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# RandAugment's list (Cubuk et al. 2020, section 3.1); `saturation` is what it calls colour.
_STANDARD = (
    "identity autocontrast equalise rotate solarise saturation posterise contrast brightness "
    "sharpness shear_x shear_y translate_x translate_y"
)
STANDARD = tuple(_STANDARD.split())

IDENTITY = "identity"  # among the operations of a list, the one that changes nothing

_SEEDS = 2**62


def usable(names: Sequence[str], channels: int) -> list[str]:
    """Those of the operations that images of so many channels can have."""
    return [n for n in names if n == IDENTITY or operation(n).channels in (None, channels)]


def children(rng: torch.Generator, count: int) -> list[torch.Generator]:
    """New generators, seeded by as many draws from this one.

    What is drawn from them, if anything, does not change what is drawn from it afterwards.
    """
    import torch

    seeds = torch.randint(_SEEDS, (count,), generator=rng, device=rng.device).tolist()
    return [torch.Generator(rng.device).manual_seed(seed) for seed in seeds]


def per_row(strength: Strength, inputs: Tensor) -> Tensor:
    """The strength as one number for each example, (B,), in the type of the inputs."""
    import torch

    zeros = inputs.new_zeros(len(inputs))
    number = torch.as_tensor(spread(strength, zeros), device=zeros.device)
    return number.to(zeros.dtype).expand(len(zeros))


def whole_draws(shape: Sequence[int], below: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Uniform whole numbers from 0 to `below` - 1."""
    return (uniform(shape, like, rng) * below).long().clamp(max=below - 1)


def in_turn(
    inputs: Tensor,
    names: Sequence[str],
    which: Tensor,
    magnitudes: Tensor,
    values: Range,
    rng: torch.Generator,
) -> Tensor:
    """Every image after the operations that `which` (B, n) says, one after the other, each at its
    magnitude (B, n) in [0, 1].

    At magnitude 0 nothing is done. What is drawn for an image depends on no other, nor on how many
    of the n are at 0.
    """
    listed = [None if name == IDENTITY else operation(name) for name in names]
    plan = planned(inputs, listed, which, magnitudes, rng)
    acting = (plan.amounts != 0).any(0).nonzero()
    if not len(acting):
        return inputs
    used = slice(0, int(acting.max()) + 1)
    draws = {place: draw[:, used] for place, draw in plan.draws.items()}
    part = Plan(plan.which[:, used], plan.amounts[:, used], draws)
    return carried_out(inputs, listed, part, values)


def at_rows(
    name: str,
    inputs: Tensor,
    rows: Tensor,
    magnitudes: Tensor,
    values: Range,
    rng: torch.Generator,
) -> Tensor:
    """The images of these rows after one operation, at magnitudes (B,) in [0, 1]; at 0 exactly the
    same. Draws are made for all rows."""
    import torch

    chosen = operation(name)
    change = chosen.apply
    amounts = chosen.amounts(magnitudes, len(inputs), inputs, rng)[rows]
    draws = amounts
    if isinstance(change, Split) and change.draw is not None:
        draws = change.draw(inputs, rng)[rows]

    def applied(x: Tensor) -> Tensor:
        if isinstance(change, Split):
            return change.change(x, amounts, draws)
        return change(x, amounts, rng)

    before = inputs[rows]
    after = prepared(before, values if chosen.valued else None, applied)
    return torch.where(column(amounts == 0, before), before, after.to(inputs.dtype))
