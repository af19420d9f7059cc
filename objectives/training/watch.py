"""What a model puts out in a pass of training, for regularizers that look at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from objectives.training.attention import Attention
from search_spaces.asking import first_of


@dataclass
class Seen:
    """What has been seen in a pass so far, of the last call of the model."""

    outputs: Tensor | None = None
    features: Tensor | None = None
    attention: list[Tensor] = field(default_factory=list)


class Watch:
    """Notes, while `watching`, what the model puts out and what its last linear layer is given."""

    def __init__(self, model: nn.Module, attention: Attention | None) -> None:
        self._model, self._attention = model, attention
        self._seen: Seen | None = None
        self._last: RemovableHandle | None = None  # of the hook on what the model puts out

    def attach(self) -> list[Callable[[], None]]:
        """Puts hooks on the model; gives back what takes them off."""
        # First of all: the model may be a linear layer itself.
        undo = [self._model.register_forward_pre_hook(self._called).remove]
        linear = [m for m in self._model.modules() if isinstance(m, nn.Linear)]
        undo += [m.register_forward_pre_hook(self._given).remove for m in linear]
        self._last = self._model.register_forward_hook(self._put_out)
        return [*undo, self._last.remove]

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Within it passes of the model are noted."""
        if self._last is not None:  # behind hooks that have come since, which change the outputs
            hooks = self._model._forward_hooks
            hooks[self._last.id] = hooks.pop(self._last.id)
        outer, self._seen = self._seen, Seen()
        attention = self._attention
        before = None if attention is None else attention.collect
        if attention is not None:
            attention.collect = self._seen.attention
        try:
            yield self._seen
        finally:
            self._seen = outer
            if attention is not None:
                attention.collect = before

    def _called(self, *_: Any) -> None:
        if self._seen is not None:
            self._seen.features = None
            self._seen.attention.clear()

    def _given(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._seen is not None and inputs and isinstance(inputs[0], Tensor):
            self._seen.features = inputs[0]

    def _put_out(self, module: nn.Module, inputs: Any, output: Any) -> None:
        first = first_of(output)
        if self._seen is not None and first is not None:
            self._seen.outputs = first


@contextmanager
def averages_kept(model: nn.Module) -> Iterator[None]:
    """Within it norms in training mode do not learn their running averages from passes."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        and module.training
        and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
