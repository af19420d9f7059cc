"""What hypergradients are measured on: problems whose true outer loss can be had exactly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from objectives.logistic import Logistic
from objectives.tv_denoise import TvDenoise
from search_spaces.domains import Domain, Float

DOUBLE = torch.float64


class Digits:
    """Softmax regression, 1000 rows to train on and 797 for the outer loss; 640 strengths exp(t),
    t in [-15, 8], from -3."""

    space: ClassVar[Mapping[str, Domain]] = {
        "l2": Float(math.exp(-15), math.exp(8), "log", start=math.exp(-3), size=640)
    }

    def __init__(self) -> None:
        import numpy as np
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))
        x, y = torch.from_numpy(pixels[order] / 16), torch.from_numpy(labels[order]).to(torch.int64)
        self._train, self._rest = (x[:1000], y[:1000]), (x[1000:], y[1000:])

    def init_params(self, seed: int) -> Tensor:
        return torch.zeros(64, 10, dtype=DOUBLE)

    def inner_loss(self, params: Tensor, h: Mapping[str, Any]) -> Tensor:
        penalty: Tensor = (h["l2"] * params.flatten() ** 2).sum() / 2
        return functional.cross_entropy(self._train[0] @ params, self._train[1]) + penalty

    def outer_loss(self, params: Tensor, h: Mapping[str, Any]) -> Tensor:
        return functional.cross_entropy(self._rest[0] @ params, self._rest[1])


class Photographs(TvDenoise):
    """Eight photographs of 96 x 96, strength and smoothness exp(t), t in [-12, 3], from -5."""

    space: ClassVar[Mapping[str, Domain]] = {
        name: Float(math.exp(-12), math.exp(3), "log", start=math.exp(-5))
        for name in ("strength", "smooth")
    }


class Weights(Logistic):
    """The softmax regression of `logistic` with a strength for each of its 640 weights, within a
    range that leaves the inner problem well enough conditioned for points drawn from all of it."""

    @property
    def space(self) -> Mapping[str, Domain]:
        return {"l2": Float(1e-5, 10.0, "log", start=0.05, size=self._size)}

    def curvatures(self, h: Mapping[str, Any]) -> Tensor:
        """The diagonal (640,) of the inner Hessian at weights of zero."""
        pixels, _ = self._rows["train"]
        of_loss = 0.09 * (pixels**2).mean(0)  # a probability of 1/10, times 9/10
        return self._each(h["l2"]) + of_loss.repeat_interleave(10)

    def _each(self, strengths: Tensor) -> Tensor:
        """A strength for each weight, pixel by pixel."""
        return strengths


class Halves(Weights):
    """The same with 20 strengths: one for each class and half of the picture, upper and lower."""

    def inner_loss(
        self, params: Tensor, h: Mapping[str, Any], rows: Tensor | None = None
    ) -> Tensor:
        return super().inner_loss(params, {"l2": self._each(h["l2"])}, rows)

    @property
    def _size(self) -> int:
        return 20

    def _each(self, strengths: Tensor) -> Tensor:
        return strengths.view(2, 10).repeat_interleave(32, dim=0).flatten()


class Network:
    """A network of 2410 weights (64-32-10, tanh) on 600 digits, an L2 strength for each tensor."""

    space: ClassVar[Mapping[str, Domain]] = {"l2": Float(1e-6, 1.0, "log", start=1e-3, size=4)}

    def __init__(self) -> None:
        self._rows = {split: rows for split, rows in Logistic()._rows.items() if split != "test"}

    def init_params(self, seed: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return {
            "w1": torch.randn(64, 32, generator=rng, dtype=DOUBLE) / 8,
            "b1": torch.zeros(32, dtype=DOUBLE),
            "w2": torch.randn(32, 10, generator=rng, dtype=DOUBLE) / 32**0.5,
            "b2": torch.zeros(10, dtype=DOUBLE),
        }

    def inner_parts(
        self, params: Mapping[str, Tensor], h: Mapping[str, Any]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor]:
        squares = torch.stack([(one**2).sum() for one in params.values()])
        pixels, labels = self._rows["train"]
        penalty: Tensor = (h["l2"] * squares).sum() / 2
        return _scores(params, pixels), lambda z: functional.cross_entropy(z, labels), penalty

    def inner_loss(self, params: Mapping[str, Tensor], h: Mapping[str, Any]) -> Tensor:
        scores, loss, penalty = self.inner_parts(params, h)
        return loss(scores) + penalty

    def outer_loss(self, params: Mapping[str, Tensor], h: Mapping[str, Any]) -> Tensor:
        pixels, labels = self._rows["validation"]
        return functional.cross_entropy(_scores(params, pixels), labels)


def _scores(params: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    hidden = (pixels @ params["w1"] + params["b1"]).tanh()
    return hidden @ params["w2"] + params["b2"]


class Ridge:
    """Ridge regression of 200 features with a strength for each; the Hessian's condition is 24."""

    _features, _rows, _start = 200, 400, 0.037

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self._x, self._z = (
            torch.randn(self._rows, self._features, generator=rng, dtype=DOUBLE) for _ in range(2)
        )
        truth = torch.randn(self._features, generator=rng, dtype=DOUBLE) / self._features**0.5
        self._y, self._w = (
            x @ truth + 0.5 * torch.randn(self._rows, generator=rng, dtype=DOUBLE)
            for x in (self._x, self._z)
        )

    @property
    def space(self) -> Mapping[str, Domain]:
        return {"l2": Float(1e-6, 10.0, "log", start=self._start, size=self._features)}

    def init_params(self, seed: int) -> Tensor:
        return torch.zeros(self._features, dtype=DOUBLE)

    def inner_loss(self, params: Tensor, h: Mapping[str, Any]) -> Tensor:
        penalty: Tensor = (h["l2"] * params**2).sum() / 2
        return self._loss(self._x @ params, self._y) + penalty

    def outer_loss(self, params: Tensor, h: Mapping[str, Any]) -> Tensor:
        return self._loss(self._z @ params, self._w)

    def _loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        return ((found - wanted) ** 2).mean() / 2


class Binary(Ridge):
    """Logistic regression of 30 features with a strength for each; condition 25."""

    _features, _rows, _start = 30, 100, 0.004

    def _loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        return functional.softplus(-found * wanted.sign()).mean()


class Drawn:
    """A regression (squares, logistic or robust) with drawn rows, and a strength a feature."""

    def __init__(self, seed: int) -> None:
        choose, rng = random.Random(seed), torch.Generator().manual_seed(seed)
        features, rows = choose.choice([5, 20, 60]), choose.choice([20, 80, 200])
        self.kind = choose.choice(["squares", "logistic", "robust"])
        scale = torch.logspace(0, -choose.uniform(0, 2), features, dtype=DOUBLE)
        self._x, self._z = (
            torch.randn(rows, features, generator=rng, dtype=DOUBLE) * scale for _ in range(2)
        )
        truth = torch.randn(features, generator=rng, dtype=DOUBLE) / scale
        truth /= (self._x @ truth).std()
        self._y, self._w = (
            x @ truth + 0.5 * torch.randn(rows, generator=rng, dtype=DOUBLE)
            for x in (self._x, self._z)
        )
        start = 10 ** choose.uniform(-4, 0)
        self.space: Mapping[str, Domain] = {
            "l2": Float(1e-5, 10.0, "log", start=start, size=features)
        }
        top = torch.linalg.eigvalsh(self._z.t() @ self._z / rows)[-1]
        self._smoothness = float(top) * (0.25 if self.kind == "logistic" else 1.0)

    def init_params(self, seed: int) -> Tensor:
        return torch.zeros(self._x.shape[1], dtype=DOUBLE)

    def inner_loss(self, params: Tensor, h: Mapping[str, Any]) -> Tensor:
        penalty: Tensor = (h["l2"] * params**2).sum() / 2
        return self._loss(self._x @ params, self._y) + penalty

    def outer_loss(self, params: Tensor, h: Mapping[str, Any]) -> Tensor:
        return self._loss(self._z @ params, self._w)

    def mu(self, h: Mapping[str, Any]) -> float:
        return float(h["l2"].min())

    def outer_smoothness(self, h: Mapping[str, Any]) -> float:
        return self._smoothness

    def _loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.kind == "squares":
            return ((found - wanted) ** 2).mean() / 2
        if self.kind == "logistic":
            return functional.softplus(-found * wanted.sign()).mean()
        return ((1 + (found - wanted) ** 2).sqrt() - 1).mean()
