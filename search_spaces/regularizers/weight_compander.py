"""Weight compander: every weight passes through a curve that flattens, so that none gets large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, pooled
from search_spaces.regularizers._matrices import matrices

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning


def scales(beginning: Beginning) -> Mapping[str, float]:
    """The size of each weight tensor where the run starts: the root mean square of its entries."""
    found = {}
    for name, weight in matrices(beginning.weights()).items():
        found[name] = float(weight.double().square().mean().sqrt()) or _typical(weight)
    return found


def compand(
    sizes: Mapping[str, float],
    parameters: Mapping[str, Tensor],
    h: Strengths,
    rng: torch.Generator,
) -> Mapping[str, Tensor]:
    """w = s / c * arctan(c v / s), for matrices and filters; v is what is trained.

    c is the strength and s the root mean square that the tensor starts with, or 1 / sqrt(inputs)
    for one that starts at zero. c = 0 is the identity. All weights stay within s / c * pi / 2, and
    large ones answer less and less to their gradients. The paper (Cakaj et al. 2023) has
    a * arctan(v / b): this is its member of slope one at zero, a = b = s / c, since training can
    make up for another slope by itself. (That its function is the arctan is from memory; what is
    tested is what it is for: odd, bounded, monotone, of slope one at zero.)
    """
    import torch

    curve = pooled(h["weight_compander"])
    changed = dict(parameters)
    for name, weight in matrices(parameters).items():
        size = sizes.get(name) or _typical(weight)
        steep = torch.as_tensor(curve / size, dtype=weight.dtype, device=weight.device)
        changed[name] = _flattened(weight, steep)
    return changed


def _flattened(weight: Tensor, curve: Tensor) -> Tensor:
    """arctan(curve * w) / curve, and w where the curve is zero."""
    import torch

    none = curve == 0
    safe = torch.where(none, 1.0, curve)  # a division by zero would spoil the gradient even unused
    return torch.where(none, weight, (safe * weight).atan() / safe)


def _typical(weight: Tensor) -> float:
    return float(weight[0].numel() ** -0.5)


REGULARIZER = Regularizer(
    knobs={
        "weight_compander": Float(
            0.01, 3.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))
        )
    },
    remember=scales,
    parameter=compand,
    differentiable=True,
    evaluated=True,
    note="a part of the model, in evaluation too; relative to the size each tensor starts with",
)
