"""Dropout that no hook sees, because it is a function's argument and no layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hpo.bilevel.unsuited import eagerly

_FUNCTIONS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


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
        with torch.no_grad(), eagerly(), watching:
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
