"""What a method sees of a training under way: both losses around the parameters of the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from torch import Tensor

State: TypeAlias = Mapping[str, Tensor]  # all that a method remembers


class Curved(Protocol):
    """First and second derivatives of the inner loss at one point, on fixed rows and draws.

    `slope` (n,) is the gradient in the parameters; `product` and `products` multiply by the
    Hessian, `cross` by the derivative of the slope in the knobs, (n,) -> (m,).
    """

    slope: Tensor

    def product(self, v: Tensor) -> Tensor: ...

    def products(self, vs: Tensor) -> Tensor: ...

    def cross(self, q: Tensor) -> Tensor: ...


class View(Protocol):
    """Both losses on some rows, as functions of parameters x (n,) and coordinates t (m,).

    x: where the parameters are now. scale: (n,), or 1, what training multiplies gradients by beside
    the learning rate (Adam's second moments); the Hessian, so scaled, is what training feels.
    damping: one over the sum of the learning rates so far. Parameters that trained so long have
    answered to the knobs as if that were added to the scaled Hessian: along directions that are
    flatter, there was no time to.
    """

    @property
    def x(self) -> Tensor: ...

    @property
    def scale(self) -> Tensor: ...

    @property
    def damping(self) -> float: ...

    def curved(self, t: Tensor) -> Curved:
        """The inner loss at x."""
        ...

    def inner(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes of the inner loss in x and in t; the same rows and draws at any x."""
        ...

    def outer(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes of the outer loss in x, and the direct one in t."""
        ...

    def stride(
        self, x: Tensor, gradient: Tensor, velocity: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The step that training takes from x for a gradient, and what it carries on."""
        ...
