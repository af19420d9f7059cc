"""Changes of the values of single pixels, in [0, 1], by what may depend on their image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.augmentation.split import column

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, in ITU-R BT.601


@dataclass(frozen=True)
class Linear:
    """An `apply` that makes clamp(a x + b) of a value x; nothing is drawn.

    coefficients: (images, amounts) -> a and b, each (B, 1) or, one for each channel, (B, C).
    """

    coefficients: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(self, images: Tensor, amounts: Tensor, rng: torch.Generator) -> Tensor:
        return linear(images, *self.coefficients(images, amounts))


def linear(images: Tensor, slope: Tensor, intercept: Tensor) -> Tensor:
    """clamp(a x + b), with a and b of shape (B, 1) or (B, C)."""
    from torch.nn import functional

    raw = (images * slope[..., None, None]).add_(intercept[..., None, None])
    # A clamp whose backward pass is one pass over the images.
    return functional.hardtanh_(raw, 0.0, 1.0)


def grey(images: Tensor) -> Tensor:
    """The luma of images (B, 1, H, W): of one with three channels weighted, else their mean."""
    if images.shape[1] != 3:
        return images if images.shape[1] == 1 else images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def away(images: Tensor, amounts: Tensor, pivot: Tensor) -> Tensor:
    """clamp(x + amount (x - pivot)): nearer to the pivot for amounts below zero, which is there
    at -1, and further away above (the enhancers of PIL, by a factor of 1 + amount)."""
    return (images + column(amounts, images) * (images - pivot)).clamp(0, 1)
