"""Draws around the centre of the free knobs, in pairs of opposite sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpo.bilevel.stn.freeknobs import FreeKnobs
from objectives.training.perturbed import rounded
from search_spaces.domains import Choice, Int


def antithetic(rows: int, columns: int, rng: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal draws (rows, columns); the second half of the rows is minus the first.

    What is linear in the draws thus cancels in a mean over the rows: the base weights of a
    perturbed batch see no first-order bias. Where the number of rows is odd, the middle one has no
    opposite, and its draw remains in the mean.
    """
    half = (rows + 1) // 2
    draws = torch.randn(half, columns, generator=rng, device=rng.device, dtype=like.dtype)
    return torch.cat([draws, -draws[: rows - half]]).to(like.device)


class Perturbation:
    """Draws knobs for the rows of training batches, and says how far each is from the centre."""

    def __init__(self, free: FreeKnobs, rng: torch.Generator) -> None:
        self._free, self._rng = free, rng
        self._shared_draw: Tensor | None = None

    def draw(self, center: Tensor, scale: Tensor, rows: int) -> tuple[Tensor, dict[str, Any]]:
        """delta (rows, columns), and the strengths as regularizers take them: one for each row,
        or a single one for a knob that the whole batch shares.

        Shared draws come in pairs too, one batch after the other.
        """
        free = self._free
        draws = antithetic(rows, len(free), self._rng, center)
        if free.any_shared:
            draws = torch.where(free.shared, self._shared(draws[0]), draws)
        delta = draws * scale
        found = self._numbers(center + delta)
        for name, chances in free.probabilities(center).items():
            delta[:, free.slices[name]], found[name] = self._options(name, chances, rows)
        return delta, found

    def opposite(
        self, center: Tensor, delta: Tensor, strengths: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The same draw with the other sign; a choice has none and stays."""
        free = self._free
        other = -delta
        for name in free.probabilities(center):
            other[:, free.slices[name]] = delta[:, free.slices[name]]
        return other, {**strengths, **self._numbers(center + other)}

    def _numbers(self, values: Tensor) -> dict[str, Any]:
        return {n: self._strengths(n, v) for n, v in self._free.values(values).items()}

    def _shared(self, draw: Tensor) -> Tensor:
        """One row of draws; every second time the last one with the other sign."""
        last, self._shared_draw = self._shared_draw, None
        if last is not None:
            return -last
        self._shared_draw = draw.clone()
        return draw

    def _strengths(self, name: str, values: Tensor) -> Tensor:
        domain = self._free.domains[name]
        if self._free.is_shared(name):
            values = values[0]
        if isinstance(domain, Int):
            noise = torch.rand(values.shape, generator=self._rng, device=self._rng.device)
            values = rounded(values, noise.to(values), domain.low, domain.high)
        return values

    def _options(self, name: str, chances: Tensor, rows: int) -> tuple[Tensor, Any]:
        """Of a choice: how far each row's option is from its probability, and the options."""
        domain, shared = self._free.domains[name], self._free.is_shared(name)
        assert isinstance(domain, Choice)
        number = 1 if shared else rows
        weights = chances.to(self._rng.device)
        picked = torch.multinomial(weights, number, replacement=True, generator=self._rng)
        delta = torch.nn.functional.one_hot(picked, len(domain.options)).to(chances) - chances
        if shared:
            return delta.expand(rows, -1), domain.options[int(picked[0])]
        return delta, chosen(domain.options, picked, chances)

    def state_dict(self) -> dict[str, Any]:
        """What decides the next draws."""
        return {"rng": self._rng.get_state(), "shared": self._shared_draw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self._rng.set_state(state["rng"])
        self._shared_draw = state["shared"]


def chosen(options: Sequence[Any], picked: Tensor, like: Tensor) -> Tensor:
    """The numbers among `options` at the places `picked` (rows,), as `like` holds its own."""
    # Built beside the places: a tensor is not indexed by places on another device.
    return torch.tensor(options, dtype=like.dtype, device=picked.device)[picked].to(like)


def chained(grads: Tensor, center: Tensor, free: FreeKnobs, entropy: float) -> Tensor:
    """Gradients (columns,) in the free numbers, from those in delta at the centre.

    They are the same for numbers. A choice answers to its probabilities, so there they go through
    the softmax; the entropy of the choice, with this weight, keeps every option in the draws.
    """
    found = grads.clone()
    for name, chances in free.probabilities(center).items():
        columns = free.slices[name]
        loss = grads[columns] + entropy * chances.log()
        found[columns] = chances * (loss - (chances * loss).sum())
    return found
