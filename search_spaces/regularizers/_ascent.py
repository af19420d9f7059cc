"""The step uphill of sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.regularizer import Strength, pooled
from search_spaces.regularizers._matrices import precise

if TYPE_CHECKING:
    from torch import Tensor


def climbed(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], distance: Strength
) -> Mapping[str, Tensor]:
    """The parameters moved by this distance along their gradients; those without one stay.

    Where all gradients are zero nothing moves.
    """
    import torch

    known = {name: gradients[name] for name in parameters if name in gradients}
    if not known:
        return dict(parameters)
    parts = torch.stack(
        [torch.linalg.vector_norm(precise(gradient)) for gradient in known.values()]
    )
    length = torch.linalg.vector_norm(parts)
    # Divided first: the quotient is at most one, whatever the scale of the gradients.
    least = torch.finfo(length.dtype).tiny
    moved = dict(parameters)
    for name, gradient in known.items():
        step = pooled(distance) * (gradient / length.clamp(min=least))
        moved[name] = parameters[name] + step.to(parameters[name].dtype)
    return moved
