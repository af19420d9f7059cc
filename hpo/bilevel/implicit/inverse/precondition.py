"""Cheap stand-ins for the inverse Hessian, which make conjugate gradients short."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
Pairs = Sequence[tuple[Tensor, Tensor]]

_SYMMETRIC = 0.1  # how far S'Y of the pairs may be from symmetric, as a share of it
_NUDGE = 1e-4  # on the diagonal of S'Y, whose entries there are one


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


def secants(known: Pairs) -> Apply | None:
    """The inverse that fits all pairs (step, change of the gradient) at once, where L-BFGS fits the
    last. None without pairs.

    With S, Y (k, n) of the newest k pairs and C = S Y', which is symmetric where the Hessian is
    constant: S' C^-1 S + g (I - S' C^-1 Y) (I - Y' C^-1 S). k is as large as leaves C symmetric:
    pairs that come from another Hessian are left out. Schnabel, Quasi-Newton methods using multiple
    secant equations (1983); Gower, Goldfarb and Richtarik, Stochastic block BFGS (ICML 2016).
    """
    if not known:
        return None
    s, y = torch.stack([one for one, _ in known]), torch.stack([one for _, one in known])
    curved = (s * y).sum(1)
    usable = curved > 1e-12 * (y * y).sum(1)
    if not bool(usable.any()):
        return None
    size = curved[usable].sqrt()[:, None]
    s, y = s[usable] / size, y[usable] / size
    core = s @ y.t()
    newest = _symmetric(core)
    while True:
        s, y, core = s[-newest:], y[-newest:], core[-newest:, -newest:]
        shifted = (core + core.t()) / 2
        shifted.diagonal().add_(_NUDGE)
        root, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            break
        newest = max(1, newest // 2)
    inverse = torch.cholesky_inverse(root)
    scale = float((s * s).sum(1).median())

    def apply(v: Tensor) -> Tensor:
        first = inverse @ (s @ v)
        rest = scale * (v - y.t() @ first)
        return rest + s.t() @ (first - inverse @ (y @ rest))

    return apply


def _symmetric(core: Tensor) -> int:
    """How many of the last rows and columns are symmetric, nearly."""
    apart = _of_newest((core - core.t()) ** 2)
    return int((apart <= _SYMMETRIC**2 * _of_newest(core**2)).nonzero().max()) + 1


def _of_newest(squares: Tensor) -> Tensor:
    """The sums over the last k rows and columns, for every k."""
    return squares.flip(0, 1).cumsum(0).cumsum(1).diagonal()


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
