"""Bilevel problems, sound but for what their names say."""

from typing import ClassVar

import torch

from search_spaces import Choice, Float


class Plain:
    space: ClassVar = {"l2": Float(1e-4, 1e2, "log", start=10.0)}

    def __init__(self):
        self.x = torch.cos(torch.arange(480, dtype=torch.float64) ** 2).view(80, 6)
        self.y = self.x[:, 0] + 0.5 * torch.sin(torch.arange(80, dtype=torch.float64))

    def init_params(self, seed):
        return torch.zeros(6, dtype=torch.float64)

    def inner_loss(self, w, h):
        return ((self.x[:40] @ w - self.y[:40]) ** 2).mean() + h["l2"] * (w**2).sum()

    def outer_loss(self, w, h):
        return ((self.x[40:] @ w - self.y[40:]) ** 2).mean()


class Numbers(Plain):
    space: ClassVar = {
        **Plain.space,
        "tilt": Float(0.1, 10.0, "log", start=1.0),
        "half": Float(0.1, 10.0, "log", start=1.0),
        "learning_rate": Float(1e-3, 1.0, "log", start=0.1),
        "power": Choice((2, 4)),
    }

    def inner_loss(self, w, h):
        half = 0.1 * h["half"] + 0.9 * h["half"].detach()
        return super().inner_loss(w, h) + h["tilt"].item() * w[0] ** 2 + half * w[1] ** h["power"]


class Drawn(Plain):
    def inner_loss(self, w, h):
        return super().inner_loss(torch.nn.functional.dropout(w + 1, 0.5), h)


class Detached(Plain):
    def inner_loss(self, w, h):
        return super().inner_loss(w, h) + (w.detach() * w).sum()


class Useless(Plain):
    space: ClassVar = {"learning_rate": Float(1e-3, 1.0, "log", start=0.1)}

    def inner_loss(self, w, h):
        return super().inner_loss(w, {"l2": 0.1})
