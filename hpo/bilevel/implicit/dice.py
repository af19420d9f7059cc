"""Random vectors that are the same in every look at a problem, and what counts as the same."""

from __future__ import annotations

import torch
from torch import Tensor

from hpo.bilevel.implicit.problem import Bilevel


class Dice:
    """Random vectors, the same in every look."""

    def __init__(self, flat: Bilevel) -> None:
        self._flat = flat
        self._rng = torch.Generator().manual_seed(0)

    def like(self, v: Tensor) -> Tensor:
        drawn = torch.randn(len(v), generator=self._rng, dtype=torch.float64)
        return drawn.to(v)

    def near(self, x: Tensor) -> Tensor:
        """Parameters at no special place: a little way from x."""
        return x + 0.05 * size(x) * self.like(x)

    def knobs(self) -> Tensor:
        """A point anywhere in the box."""
        spans = self._flat.coordinates.spans
        return spans * torch.rand(len(spans), generator=self._rng, dtype=torch.float64).to(spans)

    def spread(self) -> list[Tensor]:
        """Three such points, in which each knob has a value in each third of its range."""
        spans, first = self._flat.coordinates.spans, self.knobs()
        return [(first + spans * k / 3) % spans for k in range(3)]


def size(x: Tensor) -> float:
    """What is typical of an entry; 1 if all are zero."""
    return float(x.square().mean().sqrt()) or 1.0


def rounding(x: Tensor) -> float:
    return float(torch.finfo(x.dtype).eps)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two results differ by no more than a device that sums in any order may make them."""
    if torch.equal(a, b):
        return True
    return bool((a - b).norm() <= 100 * rounding(a) * a.norm())
