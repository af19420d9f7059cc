"""Regularizers inside a model: at dropout layers, at the ends of branches, in attention."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from objectives.training.attention import Attention
from objectives.training.places import Knobs, Places
from objectives.training.rerun import refuse_again
from objectives.training.sites import attention_sites, own_rate
from search_spaces.regularizer import Regularizer


class AtSites:
    """What acts inside a model while `in_force` holds knobs. `attention`: the hooks on attention
    layers, if a regularizer hides keys from them or reads their weights."""

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        records: Iterable[Regularizer],
        rng: torch.Generator,
    ) -> None:
        self._places, self._rng, self._records = places, rng, list(records)
        self.in_force: Knobs | None = None
        attending = any(r.attention or r.attends for r in self._records)
        sites = [*attention_sites(model).values()]
        self.attention = Attention(sites, self._kept) if attending else None

    def attach(self) -> list[Callable[[], None]]:
        """Puts hooks on the sites; gives back what undoes it.

        If dropout is among them the sites' own rates are zero meanwhile: its strength comes from
        the knob alone.
        """
        undo = [] if self.attention is None else self.attention.attach()
        for kind, sites in self._places.sites.items():
            records = [r for r in self._records if r.activation and r.site == kind]
            for place, site in enumerate(sites if records else ()):
                if any(r.replaces_dropout for r in records):
                    undo += _without_own_rate(site)
                hook = partial(self._act, place, records)
                undo.append(site.register_forward_hook(hook).remove)
        return undo

    def _act(
        self, place: int, records: list[Regularizer], site: nn.Module, _: Any, output: Tensor
    ) -> Tensor:
        if not site.training:
            return output
        refuse_again(site)
        if self.in_force is None:
            return output
        for regularizer in records:
            here = self._places.at(place, regularizer, self.in_force)
            assert regularizer.activation is not None
            output = regularizer.activation(output, here, self._rng, site).to(output.dtype)
        return output

    def _kept(self, shape: tuple[int, int, int], site: nn.Module) -> Tensor | None:
        """The keys that each query may look at, (B, L, S); None for all."""
        if self.in_force is None:
            return None
        refuse_again(site)
        kept: Tensor | None = None
        for regularizer in self._records:
            if regularizer.attention is not None:
                own = regularizer.attention(shape, self.in_force, self._rng)
                kept = own if kept is None else kept & own
        return kept


def _without_own_rate(site: nn.Module) -> list[Callable[[], None]]:
    attribute = own_rate(site)
    if attribute is None:
        return []
    rate = getattr(site, attribute)
    setattr(site, attribute, 0.0)
    return [partial(setattr, site, attribute, rate)]
