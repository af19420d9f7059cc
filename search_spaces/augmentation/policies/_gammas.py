"""Draws from Gamma and Beta distributions by a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEAST = 1e-6  # how far a Beta draw keeps from 0 and 1


def gamma(shapes: Tensor, rng: torch.Generator) -> Tensor:
    """Draws from Gamma(shape, 1), none of them zero, where the shapes live."""
    import torch

    # There is no such draw by a generator elsewhere.
    if rng.device.type != "cpu":
        rng = torch.Generator().manual_seed(rng.initial_seed())
    drawn = torch._standard_gamma(shapes.detach().cpu().double(), generator=rng)
    return drawn.clamp(min=1e-30).to(shapes)


def beta(first: Tensor, second: Tensor, rng: torch.Generator) -> Tensor:
    """Draws from Beta(first, second)."""
    one, other = gamma(first, rng), gamma(second, rng)
    return (one / (one + other)).clamp(LEAST, 1 - LEAST)
