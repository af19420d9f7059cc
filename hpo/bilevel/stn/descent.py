"""The knobs in motion: their centre, the scale of their perturbation, and the steps of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hpo.bilevel.stn.freeknobs import LIMIT
from hpo.bilevel.stn.options import SelfTuningOptions

_MOST_RATE = 0.2  # of a step, in free units: longer ones leave what the response has learned


class Descent:
    """Adam on the centre (columns,) and on the latent scale, within trust region and caps.

    still: the columns whose perturbation is always zero, because nothing answers to it.
    """

    def __init__(
        self, center: Tensor, still: Tensor, steps: int, options: SelfTuningOptions
    ) -> None:
        self.center = center
        self.start = center.clone()
        self._limit = torch.clamp(center.abs(), min=LIMIT)  # a start beyond it is allowed
        self._options = options
        self._moving = (~still).to(center.dtype)
        self.latent = torch.full_like(center, _latent(options.scale))
        rate = options.rate
        if rate is None:
            rate = min(_MOST_RATE, options.path / max(1, steps))
        self._optimizer = torch.optim.Adam([self.center, self.latent], lr=rate, betas=(0.9, 0.99))

    @property
    def scale(self) -> Tensor:
        """The standard deviation of the perturbation, in free units, (columns,)."""
        return torch.nn.functional.softplus(self.latent) * self._moving

    def step(self, grad_center: Tensor, grad_scale: Tensor) -> bool:
        """One step downhill; False, and nothing changed, if a gradient is not finite. `grad_scale`
        is taken in the scale itself; its entropy is added here."""
        options = self._options
        if not bool(torch.isfinite(grad_center).all() & torch.isfinite(grad_scale).all()):
            return False
        scale = torch.nn.functional.softplus(self.latent)
        before = self.center.clone()
        self.center.grad = grad_center
        with_entropy = grad_scale - options.entropy / scale
        learned = self._moving if options.learn_scale else torch.zeros_like(self._moving)
        self.latent.grad = with_entropy * self.latent.sigmoid() * learned
        self._optimizer.step()
        reach = options.trust * torch.where(self._moving > 0, scale, torch.ones_like(scale))
        moved = (self.center - before).clamp(-reach, reach)
        self.center.copy_((before + moved).clamp(-self._limit, self._limit))
        self.latent.clamp_(_latent(options.least_scale), _latent(options.most_scale))
        return True

    def restart(self, columns: Tensor) -> None:
        """Puts some columns back to their start, with their first scale and no momentum."""
        self.center.copy_(torch.where(columns, self.start, self.center))
        first = torch.full_like(self.latent, _latent(self._options.scale))
        self.latent.copy_(torch.where(columns, first, self.latent))
        for state in self._optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].masked_fill_(columns, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {
            "center": self.center,
            "latent": self.latent,
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.center.copy_(state["center"])
        self.latent.copy_(state["latent"])
        self._optimizer.load_state_dict(state["optimizer"])


def _latent(scale: float) -> float:
    """The number whose softplus is the scale."""
    return math.log(math.expm1(scale))
