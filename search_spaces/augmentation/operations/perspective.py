"""Each image is seen from a slant; the amount is how far its corners move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.warps import centres, sampled
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


def ways(images: Tensor, rng: torch.Generator) -> Tensor:
    """How far the corners move, right and down, in shares of the amount, uniform in [-1, 1)."""
    return 2 * uniform((len(images), 4, 2), images, rng) - 1


def slant(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Each corner of the result shows a place up to half the amount of the width and height away
    from the corner of the source, and straight lines stay straight: (x, y) shows
    (a x + b y + c, d x + e y + f) / (g x + h y + 1), with the eight numbers that do this to the
    corners (Hartley and Zisserman 2004, example 2.12). Magnitude 1 is 0.5."""
    import torch

    corners = torch.tensor(CORNERS, dtype=draws.dtype, device=draws.device)
    a, b, c, d, e, f, g, h = _homography(corners, corners + amounts[:, None, None] * draws)
    across, down = centres(images)
    x, y = across.to(draws), down.to(draws)[:, None]
    depth = g * x + h * y + 1
    places = ((a * x + b * y + c) / depth, (d * x + e * y + f) / depth)
    return sampled(images, torch.stack(places, dim=-1))


def _homography(sources: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The eight numbers, (B, 1, 1) each, of the maps that take four places to four others."""
    import torch

    u, v = targets.unbind(2)
    x, y = (part.expand_as(u) for part in sources.unbind(1))
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    upper = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    lower = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    equations, right = torch.cat([upper, lower], dim=1), torch.cat([u, v], dim=1)
    solved: Tensor = torch.linalg.solve(equations, right)
    return solved[:, :, None, None].unbind(1)


OPERATION = Operation(
    kind="image",
    apply=Split(slant, ways),
    knob=Float(0.0, 0.5, start=0.1, off=0.0, limits=(0.0, 0.9)),
    full=0.5,
    differentiable=True,
    note="corners move by up to half of this share of the image's size",
)
