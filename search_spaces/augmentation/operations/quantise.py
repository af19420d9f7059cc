"""Each channel's values are put into bins at random; the amount is one over their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.domains import Float
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST = 64  # bins


def bins(images: Tensor, rng: torch.Generator) -> Tensor:
    """Edges of bins, and where in each of them its value lies, uniform in [0, 1)."""
    return uniform((len(images), images.shape[1], 2, MOST), images, rng)


def quantise(images: Tensor, amounts: Tensor, draws: Tensor) -> Tensor:
    """Puts the values of each channel into 1 / amount bins, whose edges are uniform between the
    least and the greatest, and gives all in a bin one value, uniform between its edges (Wu et al.
    2023, Randomized Quantization, section 3). Magnitude 1 is 8 bins, as there for images.

    There are at most MOST bins. More of them split those of fewer, for the same draws.
    """
    import torch

    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    number = (1 / amounts.clamp(min=1 / MOST)).round()[:, None, None]
    # Edges that this number does not need lie at the end, where their bins are empty.
    needed = torch.arange(1, MOST + 1, device=images.device) < number
    edges = torch.where(needed, draws[:, :, 0], 1.0).sort(dim=2).values
    starts = torch.nn.functional.pad(edges[..., :-1], (1, 0))
    values = starts + draws[:, :, 1] * (edges - starts)
    shares = ((flat - low) / (high - low).clamp(min=1e-12)).contiguous()
    found = torch.searchsorted(edges, shares, right=True).clamp(max=MOST - 1)
    # The last bin that is in use also holds the greatest value.
    found = found.minimum((number - 1).long())
    result = low + values.gather(2, found) * (high - low)
    still = (amounts == 0).reshape(-1, 1, 1)
    return torch.where(still, flat, result).reshape(images.shape).to(images.dtype)


OPERATION = Operation(
    kind="image",
    apply=Split(quantise, bins),
    knob=Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, 0.5)),
    full=0.125,
    note="one over the number of bins; magnitude 1 of a policy is 8 bins",
)
