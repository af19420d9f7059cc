"""Sobolev norms: how much each frequency counts in the pictures that a model puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strength, Strengths, spread
from search_spaces.regularizers._matrices import precise
from search_spaces.regularizers._pictures import pictures, pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def sobolev(x: Tensor, order: Strength) -> Tensor:
    """The squared norm in H^s, s = `order`, of pictures (..., H, W), continued periodically: (...).

        sum over frequencies xi of (1 + |xi|^2)^s * |F x (xi)|^2

    with F the unitary Fourier transform and xi in radians a pixel, -pi to pi in each direction.
    Order 0 gives the squared length, positive orders mind detail, negative ones coarse structure.

    Zhu, Hu, Lou and Yang (Implicit Regularization Effects of the Sobolev Norms in Image Processing)
    weight the frequencies of the misfit in this way. Where pictures are denoised, a misfit in H^s
    with a squared length as penalty is the same filter as a plain misfit with a penalty in H^-s.
    """
    import torch

    x = precise(x)  # there are no transforms in half precision
    height, width = x.shape[-2:]
    like = {"dtype": x.dtype, "device": x.device}
    down, across = (2 * torch.pi * torch.fft.fftfreq(size, **like) for size in (height, width))
    weight = (1 + down[:, None] ** 2 + across[None, :] ** 2) ** order
    waves = torch.fft.fft2(x, norm="ortho")
    norms: Tensor = (weight * (waves.real**2 + waves.imag**2)).sum((-2, -1))
    return norms


def centred(x: Tensor) -> Tensor:
    """The pictures without their means: a prior on roughness leaves brightness alone."""
    return x - x.mean((-2, -1), keepdim=True)


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength / 2 * squared norm of each example's output without its mean, divided by pixels."""
    outputs = pictures(p, "sobolev")
    order = spread(h["sobolev_order"], outputs)
    found = sobolev(centred(outputs), order).flatten(1).sum(1) / pixels(outputs)
    return spread(h["sobolev"], found) * found / 2


REGULARIZER = Regularizer(
    knobs={
        "sobolev": Float(1e-4, 1e2, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))),
        "sobolev_order": Float(-2.0, 2.0, start=1.0),
    },
    loss_output=term,
    differentiable=True,
    note="models that put out pictures; order 0 minds all frequencies alike, 1 gradients, 2 bends",
)
