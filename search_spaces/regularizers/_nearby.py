"""What a model makes of inputs a little beside those of a batch, everything else being the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces.regularizer import Strength, normal_like
from search_spaces.rewinding import rewinding

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def like(strength: Strength, x: Tensor) -> Tensor:
    """The strength as a tensor in the type of `x`, where it lives."""
    import torch

    return torch.as_tensor(strength, dtype=x.dtype, device=x.device)


def length(x: Tensor) -> Tensor:
    """The Euclidean norm of each example, in a shape that multiplies it."""
    import torch

    norms: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return norms.reshape(-1, *[1] * (x.ndim - 1))


def directions(inputs: Tensor, rng: torch.Generator) -> Tensor:
    """A direction for each example, uniform on the unit sphere."""
    drawn = normal_like(inputs, rng)
    return drawn / length(drawn)


def probe(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The length of a step for differences, in a shape that multiplies the inputs.

    The cube root of the rounding unit, of inputs or outputs, whichever is coarser, times the norm
    of the example: there rounding and curvature do a central difference as little harm as can be.
    """
    import torch

    unit = max(float(torch.finfo(x.dtype).eps) for x in (inputs, outputs))
    norm = length(inputs.detach())
    return math.pow(unit, 1 / 3) * torch.where(norm > 0, norm, torch.ones_like(norm))


def squared_slope(
    model: Callable[[Tensor], Tensor], inputs: Tensor, outputs: Tensor, rng: torch.Generator
) -> Tensor:
    """An unbiased estimate of ||d model / d inputs||_F^2 for each example (B,), from two passes.

    For u uniform on the unit sphere of D dimensions D E u u^T = 1, so that D E ||J u||^2 is
    ||J||_F^2. J u is a central difference under the same draws; `outputs` says how precise the
    model is. Nothing is differentiated inside, so that the estimate has a gradient where there are
    no second derivatives.
    """
    u, step = directions(inputs, rng), probe(inputs, outputs)
    rewind = rewinding(rng, inputs)
    ahead = model(inputs + step * u)
    rewind()
    behind = model(inputs - step * u)
    slope = (ahead - behind).reshape(len(ahead), -1) / (2 * step.reshape(-1, 1))
    return inputs[0].numel() * slope.square().sum(dim=1)
