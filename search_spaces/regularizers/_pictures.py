"""What priors on pictures share: they need a model whose outputs are pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.passes import Pass


def pictures(p: Pass, user: str) -> Tensor:
    """The outputs if they are pictures (B, C, H, W) of 2 x 2 pixels or more; else HpoError."""
    outputs = p.outputs
    if outputs.ndim != 4 or min(outputs.shape[2:]) < 2:
        raise HpoError(
            f"{user} needs a model whose outputs are pictures (B, C, H, W), found "
            f"{tuple(outputs.shape)}",
            hint="it is for models that restore pictures: leave its knobs out of the space",
            code="bad-batch",
        )
    return outputs


def pixels(outputs: Tensor) -> int:
    """How many numbers one picture has: the priors are means over them, whatever the size."""
    return outputs[0].numel()
