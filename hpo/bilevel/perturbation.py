"""Draws around the centre of the free knobs, in pairs of opposite sign."""

from __future__ import annotations

import torch
from torch import Tensor


def antithetic(rows: int, columns: int, rng: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal draws (rows, columns); the second half of the rows is minus the first.

    What is linear in the draws thus cancels in a mean over the rows: the base weights of a
    perturbed batch see no first-order bias. An odd last row has a draw of its own.
    """
    half = (rows + 1) // 2
    draws = torch.randn(half, columns, generator=rng, device=rng.device, dtype=like.dtype)
    return torch.cat([draws, -draws[: rows - half]]).to(like.device)
