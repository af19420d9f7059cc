"""Graph Laplacian: pixels near each other that look alike come out alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strength, Strengths, spread
from search_spaces.regularizers._pictures import pictures, pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

RADIUS = 2


def offsets(radius: int) -> list[tuple[int, int]]:
    """The steps down and across to neighbours within a radius, one for each pair of pixels."""
    within = range(-radius, radius + 1)
    return [
        (down, across)
        for down in range(radius + 1)
        for across in within
        if (down or across > 0) and down**2 + across**2 <= radius**2
    ]


def graph_energy(x: Tensor, guide: Tensor, width: Strength | Tensor, radius: int) -> Tensor:
    """x^T L x = sum over pairs of neighbours of w_ij * |x_i - x_j|^2, of pictures: (B,).

    w_ij = exp(-|g_i - g_j|^2 / (2 width^2)) for pixels at most `radius` apart, x and the guide g
    both (B, C, H, W); L is the Laplacian of the graph with these weights. A guide that is a first
    reconstruction makes the penalty depend on the data (Bianchi et al., A data-dependent
    regularization method based on the graph Laplacian, who penalize |L x| in the 1-norm; here it is
    the quadratic form, which has second derivatives).
    """
    total = x.new_zeros(len(x))
    for down, across in offsets(radius):
        alike, differ = (_differences(of, down, across) for of in (guide, x))
        weight = (-alike.square().sum(1, keepdim=True) / (2 * width**2)).exp()
        total = total + (weight * differ.square()).sum((1, 2, 3))
    return total


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength / 2 * x^T L x of each example's output x, divided by its pixels.

    The guide is the output itself, as a constant: the first reconstruction is what the model gives.
    The width is in units of its standard deviation.
    """
    outputs = pictures(p, "graph_laplacian")
    guide = outputs.detach()
    size = guide.flatten(1).var(1, correction=0).add(1e-12).sqrt()
    width = spread(h["graph_laplacian_width"], outputs) * spread(size, outputs)
    found = graph_energy(outputs, guide, width, RADIUS) / pixels(outputs)
    return spread(h["graph_laplacian"], found) * found / 2


REGULARIZER = Regularizer(
    knobs={
        "graph_laplacian": Float(
            1e-4, 1e2, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))
        ),
        "graph_laplacian_width": Float(
            0.03, 3.0, scale="log", start=0.3, limits=(1e-3, float("inf"))
        ),
    },
    loss_output=term,
    differentiable=True,
    note="models that put out pictures; pixels up to two apart",
)


def _differences(x: Tensor, down: int, across: int) -> Tensor:
    """x at each pixel minus x at the one so far down and across, where both are in the picture."""
    height, width = x.shape[-2:]
    left = max(-across, 0)
    right = width - max(across, 0)
    here = x[..., : height - down, left:right]
    return here - x[..., down:, left + across : right + across]
