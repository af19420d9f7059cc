"""Bilevel problems whose hypergradients are known, and how they are known."""

from typing import ClassVar

import torch
from torch.nn import functional

import hpo
from search_spaces.domains import Choice, Float

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


class Ridge:
    """Weights in closed form: (X'X / n + diag l2)^-1 X'y / n."""

    space: ClassVar = {"l2": Float(1e-4, 1e2, "log", start=0.1, size=12)}

    def __init__(self):
        self.x, self.z = drawn(60, 12), drawn(40, 12, seed=1)
        truth = drawn(12, seed=2)
        self.y = self.x @ truth + drawn(60, seed=3)
        self.w = self.z @ truth + drawn(40, seed=4)

    def init_params(self, seed):
        return torch.zeros(12, dtype=DOUBLE)

    def inner_loss(self, params, h):
        fit = ((self.x @ params - self.y) ** 2).mean() / 2
        return fit + (h["l2"] * params**2).sum() / 2

    def outer_loss(self, params, h):
        return ((self.z @ params - self.w) ** 2).mean() / 2

    def inner_parts(self, params, h):
        def loss(outputs):
            return ((outputs - self.y) ** 2).mean() / 2

        return self.x @ params, loss, (h["l2"] * params**2).sum() / 2

    def mu(self, h):
        return h["l2"].min()

    def outer_smoothness(self, h):
        return torch.linalg.eigvalsh(self.z.t() @ self.z / 40)[-1]

    def closed(self, l2):
        """F, differentiable in l2."""
        matrix = self.x.t() @ self.x / 60 + torch.diag(l2)
        return self.outer_loss(torch.linalg.solve(matrix, self.x.t() @ self.y / 60), {})


class Logistic(Ridge):
    """No closed form; a direct knob beside an indirect one, and a choice."""

    space: ClassVar = {
        "l2": Float(1e-4, 1e2, "log", start=0.05),
        "shrink": Float(0.1, 3.0, start=1.5),
        "shape": Choice(("square", "huber")),
    }

    def inner_loss(self, params, h):
        fit = functional.softplus(-self.x @ params * self.y.sign()).mean()
        power = params**2 if h["shape"] == "square" else (1 + params**2).sqrt()
        return fit + h["l2"] * power.sum()

    def outer_loss(self, params, h):
        return functional.softplus(-h["shrink"] * (self.z @ params) * self.w.sign()).mean()

    mu = outer_smoothness = None


class Quadratics:
    """Three quadratic problems of condition 1000 that share their knobs."""

    batch_axis = 0
    space: ClassVar = {"pull": Float(1e-2, 1e2, "log", start=1.0, size=2)}

    def __init__(self):
        self.curves = torch.logspace(-3, 0, 8, dtype=DOUBLE)
        self.aims, self.goals = drawn(3, 8), drawn(3, 8, seed=5)

    def init_params(self, seed):
        return {"a": torch.zeros(3, 4, dtype=DOUBLE), "b": torch.zeros(3, 2, 2, dtype=DOUBLE)}

    def inner_loss(self, params, h):
        x = torch.cat([params["a"], params["b"].flatten(1)], 1)
        pull = h["pull"].repeat_interleave(4)
        return (self.curves * (x - pull * self.aims) ** 2).sum(1) / 2

    def outer_loss(self, params, h):
        x = torch.cat([params["a"], params["b"].flatten(1)], 1)
        return ((x - self.goals) ** 2).sum() / 2


class Network:
    """A network of 103 weights (6-10-3, tanh) with an L2 strength for each tensor."""

    space: ClassVar = {"l2": Float(1e-4, 1.0, "log", start=0.02, size=4)}

    def __init__(self):
        self.x, self.z = drawn(60, 6), drawn(40, 6, seed=1)
        scores = drawn(6, 3, seed=2)
        self.y = (self.x.tanh() @ scores).argmax(1)
        self.w = (self.z.tanh() @ scores + drawn(40, 3, seed=3)).argmax(1)

    def init_params(self, seed):
        shapes = {"w1": (6, 10), "b1": (10,), "w2": (10, 3), "b2": (3,)}
        return {name: drawn(*shape, seed=seed + len(name)) / 2 for name, shape in shapes.items()}

    def outputs(self, params, rows):
        return (rows @ params["w1"] + params["b1"]).tanh() @ params["w2"] + params["b2"]

    def inner_parts(self, params, h):
        squares = torch.stack([(one**2).sum() for one in params.values()])
        penalty = (h["l2"] * squares).sum() / 2
        return self.outputs(params, self.x), lambda z: functional.cross_entropy(z, self.y), penalty

    def inner_loss(self, params, h):
        outputs, loss, penalty = self.inner_parts(params, h)
        return loss(outputs) + penalty

    def outer_loss(self, params, h):
        return functional.cross_entropy(self.outputs(params, self.z), self.w)


class ElasticNet(Ridge):
    """L1 through the prox, L2 within the loss; one strength a feature and one for all."""

    space: ClassVar = {
        "l1": Float(1e-4, 1e2, "log", start=0.05),
        "l2": Float(1e-4, 1e2, "log", start=0.1, size=12),
    }
    mu = outer_smoothness = None

    def prox(self, params, h, step):
        return params.sign() * (params.abs() - step * h["l1"]).clamp(min=0)


def resolved(problem, point, **options):
    return hpo.hypergradient(problem, point, 1e-12, **options)[0]


def differences(problem, point, name, change=1e-5, **options):
    """The gradient in one knob from outer losses at inner problems solved anew."""
    value = point[name]
    entries = value if isinstance(value, tuple) else (value,)
    found = []
    for place, entry in enumerate(entries):
        sides = []
        for sign in (1, -1):
            moved = tuple(
                v * (1 + sign * change) if k == place else v for k, v in enumerate(entries)
            )
            moved_value = moved if isinstance(value, tuple) else moved[0]
            sides.append(resolved(problem, {**point, name: moved_value}, **options))
        found.append((sides[0] - sides[1]) / (2 * change * entry))
    return torch.tensor(found, dtype=DOUBLE)


def relative(found, truth):
    """How far off a vector is, as a share of the true one."""
    return float((found - truth).norm() / truth.norm())
