"""Parameters that others stand in for: noise on weights, weights made from what is trained."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from objectives.training.places import Knobs, Places
from objectives.training.rerun import refuse_again
from objectives.training.standin import StandIns
from search_spaces.regularizer import Regularizer


class Reparametrisation:
    """What the modules of a model read in place of their parameters.

    In a pass of training all `parameter` hooks hold; in any other, those of regularizers that are
    `evaluated`, under the knobs that `rest_at` was given.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        records: Iterable[Regularizer],
        rng: torch.Generator,
    ) -> None:
        self._model, self._places, self._rng = model, places, rng
        self._changing = [r for r in records if r.parameter is not None]
        self._lasting = [r for r in self._changing if r.evaluated]
        self._stand_ins = StandIns(model)
        self._rest: Knobs = {}
        self._held = False  # what stands in stays until `use` says otherwise

    def use(self, knobs: Knobs | None) -> None:
        """Lets the modules read what holds in a pass of training; None: their parameters again."""
        if not self._changing:
            return
        self._held = knobs is not None
        self._stand_ins.use({} if knobs is None else self._made(self._changing, knobs))

    def use_lasting(self, knobs: Knobs) -> None:
        """Lets the modules read what an evaluation under these knobs reads, until `use`."""
        if not self._changing:
            return
        self._held = True
        self._stand_ins.use(self._made(self._lasting, knobs))

    def rest_at(self, knobs: Knobs) -> None:
        """Says which knobs hold in passes that are not of training."""
        self._rest = knobs

    @torch.no_grad()
    def evaluated(self) -> dict[str, Tensor]:
        """What passes that are not of training read, where it is not the parameters, by name."""
        if not self._lasting:
            return {}
        made, own = self._made(self._lasting, self._rest), self._stand_ins.originals()
        return {name: tensor.clone() for name, tensor in made.items() if tensor is not own[name]}

    def attach(self) -> list[Callable[[], None]]:
        """Puts hooks on the model; gives back what undoes them."""
        undo: list[Callable[[], None]] = []
        if self._changing:
            modules = self._stand_ins.modules()
            undo += [m.register_forward_pre_hook(refuse_again).remove for m in modules]
        if self._lasting:
            undo.append(self._model.register_forward_pre_hook(self._before).remove)
            undo.append(self._model.register_forward_hook(self._after, always_call=True).remove)
        return undo

    def _made(self, records: list[Regularizer], knobs: Knobs) -> Mapping[str, Tensor]:
        """What is used in place of the parameters, by name."""
        parameters: Mapping[str, Tensor] = self._stand_ins.originals()
        for regularizer in records:
            assert regularizer.parameter is not None
            changed = dict(parameters)
            for group, strengths in self._places.by_layer(regularizer, parameters, knobs):
                changed |= regularizer.parameter(group, strengths, self._rng)
            parameters = changed
        return parameters

    def _before(self, *_: Any) -> None:
        if not self._held:
            self._stand_ins.use(self._made(self._lasting, self._rest))

    def _after(self, *_: Any) -> None:
        if not self._held:
            self._stand_ins.remove()
