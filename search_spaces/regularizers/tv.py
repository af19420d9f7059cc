"""Total variation: pictures that a model puts out are flat between sharp edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strength, Strengths, spread
from search_spaces.regularizers._pictures import pictures, pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def total_variation(x: Tensor, smooth: Strength) -> Tensor:
    """The sum over pixels of (|grad x|^2 + smooth^2)^(1/2), of pictures (..., H, W): (...).

    grad are the differences to the next pixel across and down, zero at the far edges (Rudin, Osher
    and Fatemi 1992, smoothed so that it has a gradient everywhere).
    """
    across = x.diff(dim=-1, append=x[..., -1:])
    down = x.diff(dim=-2, append=x[..., -1:, :])
    return (across**2 + down**2 + smooth**2).sqrt().sum((-2, -1))


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * total variation of each example's output, a mean over pixels; 0 if constant."""
    outputs = pictures(p, "tv")
    smooth = spread(h["tv_smooth"], outputs)
    edges = total_variation(outputs, smooth).flatten(1).sum(1) / pixels(outputs)
    value = edges - spread(h["tv_smooth"], edges)
    return spread(h["tv"], value) * value


REGULARIZER = Regularizer(
    knobs={
        "tv": Float(1e-4, 1e2, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))),
        "tv_smooth": Float(1e-4, 1.0, scale="log", start=1e-2, limits=(1e-8, float("inf"))),
    },
    loss_output=term,
    differentiable=True,
    note="models that put out pictures; tv_smooth in units of their pixels",
)
