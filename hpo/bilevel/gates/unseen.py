"""What only running a model shows: dropout that is no layer, layers that run without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hpo.bilevel.gates.unsuited import eagerly, without_gradients
from search_spaces.errors import HpoError

_FUNCTIONS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


@contextmanager
def noting_blind(model: nn.Module) -> Iterator[dict[nn.Module, HpoError]]:
    """Within it gradients are enabled, but nothing asks for any, so that none are kept room for.

    It fills with the layers that the model itself runs without gradients, each with what to say.
    """
    found: dict[nn.Module, HpoError] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, *_: Any) -> None:
        if not torch.is_grad_enabled():
            found[module] = without_gradients(names[module])

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield found
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


def unseen_dropout(model: nn.Module, forward: Callable[[], object]) -> list[str]:
    """A sentence for each kind of dropout in `forward` that a knob cannot reach."""
    notes = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0:
            what = "of its weights" if isinstance(module, nn.MultiheadAttention) else "inside it"
            notes.append(
                f"{name or 'the model'} keeps the dropout {what} at {module.dropout:g}:"
                " no knob reaches it"
            )
    watching = _Watching()
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    handles = [layer.register_forward_pre_hook(watching.enter) for layer in layers]
    handles += [layer.register_forward_hook(watching.leave) for layer in layers]
    try:
        with eagerly(), watching:
            forward()
    finally:
        for handle in handles:
            handle.remove()
    if watching.called:
        notes.append(
            "functional.dropout keeps its own rate: put an nn.Dropout in its place to have it tuned"
        )
    return notes


class _Watching(TorchFunctionMode):
    """Notices calls of functional.dropout from elsewhere than a dropout layer."""

    def __init__(self) -> None:
        super().__init__()
        self.called = False
        self._depth = 0

    def enter(self, *_: Any) -> None:
        self._depth += 1

    def leave(self, *_: Any) -> None:
        self._depth -= 1

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.called |= function in _FUNCTIONS and self._depth == 0
        return function(*args, **(kwargs or {}))
