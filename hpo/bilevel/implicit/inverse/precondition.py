"""Cheap stand-ins for the inverse Hessian, which make conjugate gradients short."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
Pairs = Sequence[tuple[Tensor, Tensor]]


def jacobi(diagonal: Tensor) -> Apply:
    """Division by the diagonal of H (n,), all of it positive."""
    inverse = 1 / diagonal
    return lambda v: inverse * v


def pairs(known: Pairs, base: Apply | None = None) -> Apply | None:
    """The inverse that L-BFGS has built from pairs (step, change of the gradient), the newest last,
    on top of `base` or of a multiple of the identity. None without pairs.

    Nocedal and Wright, Numerical Optimization, Algorithm 7.4.
    """
    usable = [(s, y, float(s @ y)) for s, y in known]
    usable = [(s, y, sy) for s, y, sy in usable if sy > 1e-12 * float(y @ y)]
    if not usable:
        return base
    _, newest, sy = usable[-1]
    scale = sy / float(newest @ newest)
    if base is not None:
        scale = sy / float(newest @ base(newest))

    def apply(v: Tensor) -> Tensor:
        v = v.clone()
        weights = []
        for s, y, sy in reversed(usable):
            a = float(s @ v) / sy
            v -= a * y
            weights.append(a)
        v = scale * (v if base is None else base(v))
        for (s, y, sy), a in zip(usable, reversed(weights), strict=True):
            v += (a - float(y @ v) / sy) * s
        return v

    return apply


def diagonal(
    product: Callable[[Tensor], Tensor], like: Tensor, draws: int, seed: int = 0
) -> Tensor:
    """An estimate of the diagonal of H from `draws` products with random signs (Bekas, Kokiopoulou
    and Saad, 2007), kept away from zero."""
    rng = torch.Generator(like.device).manual_seed(seed)
    found = torch.zeros_like(like)
    for _ in range(draws):
        signs = torch.randint(0, 2, like.shape, generator=rng, device=like.device).to(like) * 2 - 1
        found += signs * product(signs) / draws
    return found.clamp(min=1e-3 * float(found.abs().mean()) + 1e-30)
