"""Random generators put back to where they were, so that passes have the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def rewinding(rng: torch.Generator, inputs: Tensor) -> Callable[[], None]:
    """What puts the generators, this one and those that layers draw from, back to where they are.

    Passes that are compared have the same draws then, and however many they are, the generators
    end where one pass ends.
    """
    import torch

    own, host = rng.get_state(), torch.get_rng_state()
    device = torch.cuda.get_rng_state(inputs.device) if inputs.is_cuda else None

    def rewind() -> None:
        rng.set_state(own)
        torch.set_rng_state(host)
        if device is not None:
            torch.cuda.set_rng_state(device, inputs.device)

    return rewind
