"""The forward passes of a user's own loop: those of training under the knobs, all others plain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpo.bilevel.gates.response import Response
from hpo.bilevel.gates.unsuited import second_order
from hpo.bilevel.ownloop.ownloop import OwnLoop
from search_spaces.errors import HpoError


class Passes:
    """Says what holds in a pass of the model between `begin` and `end`, by hooks on the model.

    Dropout sites and gates act in any pass of training from `begin` to `end`, so that a step may
    have several. Noise on weights is there only while the model itself runs: whoever reads the
    weights in between, to clear gradients or to save, finds the parameters.
    """

    def __init__(self, loop: OwnLoop, response: Response, noisy: bool) -> None:
        self._loop, self._response, self._noisy = loop, response, noisy
        self._knobs: Mapping[str, Any] = {}
        self._open = False
        # Passes seen in this batch, and whether one was seen as it is, not compiled.
        self._trained = self._evaluated = self._seen = False
        self._suspended: Tensor | None = None
        model = loop.model
        loop.keep(model.register_forward_pre_hook(self._before).remove)
        loop.keep(model.register_forward_hook(self._after, always_call=True).remove)
        if noisy:  # a pass that was interrupted from the keyboard leaves its noise behind
            guard = model.register_state_dict_pre_hook(lambda *_: self.settle())  # type: ignore[no-untyped-call]
            loop.keep(guard.remove)

    def begin(self, knobs: Mapping[str, Any]) -> None:
        """From now on passes are under these knobs."""
        self._knobs, self._open = knobs, True
        self._trained = self._evaluated = self._seen = False
        self._suspended = None
        self._loop.regularization.in_force(None if self._noisy else knobs)

    def end(self) -> None:
        """From now on the model is its plain self."""
        self._open = False
        self._response.delta = self._suspended = None
        self._loop.regularization.in_force(None)

    def settle(self) -> None:
        """Lets the modules read their own parameters."""
        if self._noisy:
            self._loop.regularization.in_force(None)

    def check(self) -> None:
        """HpoError if the knobs had no part in the passes of this batch."""
        if not self._seen:
            self._loop.notice_autocast()
        if self._evaluated and not self._trained:
            raise HpoError(
                "the model was in evaluation mode when it ran on the batch: no knob acts then, and"
                " nothing can be learned about them",
                hint="call model.train() before the training steps; to keep norms or a backbone"
                " as they are, call eval() on these layers only",
                code="not-training",
            )
        if self._noisy and not self._trained:
            raise HpoError(
                "weight_noise acts while the model itself is called, and only parts of it were",
                hint="train with model(inputs), or leave out weight_noise",
                code="not-training",
            )

    def _before(self, model: nn.Module, *_: Any) -> None:
        if not self._open:
            return
        if not torch.compiler.is_compiling():
            self._look()
        if model.training:
            self._trained = True
            if self._noisy:
                self._loop.regularization.in_force(self._knobs)
            return
        self._evaluated = True
        self.settle()
        if self._response.delta is not None:
            self._suspended, self._response.delta = self._response.delta, None

    def _after(self, model: nn.Module, *_: Any) -> None:
        if not self._open:
            return
        if model.training:
            self.settle()
        elif self._suspended is not None:
            self._response.delta, self._suspended = self._suspended, None

    def _look(self) -> None:
        if torch._C._are_functorch_transforms_active():
            raise second_order("the model runs under a transform of torch.func")
        self._seen = True
        self._loop.notice_autocast()
