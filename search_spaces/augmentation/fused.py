"""Many operations on every image at once, with gradients in all their amounts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.tones import Linear
from search_spaces.augmentation.values import UNIT, Range, scaled
from search_spaces.augmentation.warps import Affine, matrix, warped
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def fused(
    images: Tensor,
    operations: Sequence[Operation],
    amounts: Tensor,
    rng: torch.Generator,
    values: Range = UNIT,
) -> Tensor:
    """The images under all of the operations, each by its column of the amounts (B, k).

    The affine ones make a single map, with one interpolation: p of the result shows
    R S p / exp(zoom) - shift of the source, as `matrix` says, whatever their order in the list;
    amounts that mean the same thing add up. Those that are linear in the values follow, in order.
    """
    parts: list[Tensor | float] = [0.0] * len(Affine().weights)
    tones = []
    columns = amounts.unbind(1)  # apart, each would have a pass of its own in the gradient
    for operation, amount in zip(operations, columns, strict=True):
        change = operation.apply
        if isinstance(change, Affine):
            pairs = zip(parts, change.weights, strict=True)
            parts = [_plus(part, amount, weight) for part, weight in pairs]
        elif isinstance(change, Linear):
            tones.append((change, amount))
        else:
            raise HpoError(
                "only operations that are affine in places or linear in values go together",
                hint="carry out the others one after the other",
                code="bad-plugin",
            )
    if not all(isinstance(part, float) for part in parts):
        images = warped(images, matrix(parts, columns[0], images))

    def toned(images: Tensor) -> Tensor:
        for change, amount in tones:
            images = change(images, amount, rng)
        return images

    if not tones:
        return images
    return toned(images) if values == UNIT else scaled(images, values, toned)


def _plus(part: Tensor | float, amount: Tensor, weight: float) -> Tensor | float:
    """part + weight * amount; nothing that the gradient would have to pass in vain."""
    if not weight:
        return part
    more = amount if weight == 1 else weight * amount
    return more if isinstance(part, float) else part + more
