"""What becomes of the gradients of a user's loop: added up, clipped, cleared, or stepped with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable

_ENOUGH = 4  # entries: fewer are more often all zero


class Steps:
    """Follows what a loop does with its gradients, so that the gates can do the same with theirs.

    pending   backward passes have begun since the last step of the gates
    passes    how many have begun in all
    stepped   the optimizer has stepped in this batch
    ever      it has stepped at all
    clipped   how much smaller the gradients were made between backward pass and step

    Of all parameters one small one is looked at: to clip by the norm makes all of them smaller
    alike. Its gradient is compared only where its version says that somebody has written to it, so
    that the usual step costs one small copy.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]]) -> None:
        self._parameters = parameters
        self.pending = self.stepped = self.ever = False
        self.passes = 0
        self.clipped: float | Tensor = 1.0
        self._pass = -1
        self._probe: Tensor | None = None
        self._grad: Tensor | None = None  # of the probe when the last backward pass ended
        self._before: Tensor | None = None
        self._version = 0

    def backward(self, forget: Callable[[], None]) -> None:
        """To be called when a backward pass begins; `forget` clears the gradients of the gates.

        It is called when the model's gradients were cleared without a step since the last pass: the
        loop has given that batch up.
        """
        this = torch._C._current_graph_task_id()
        if this == self._pass:  # several losses, one pass
            return
        self._pass = this
        self.settle(forget)
        self.pending = True
        self.passes += 1
        Variable._execution_engine.queue_callback(self._ended)

    def settle(self, forget: Callable[[], None]) -> None:
        """Calls `forget` if there are gradients that the loop has given up."""
        if self.pending and self.cleared():
            forget()
            self.pending = False

    def cleared(self) -> bool:
        """Whether the model's gradients are gone that the last backward pass left."""
        if all(parameter.grad is None for parameter in self._parameters()):
            return True
        grad = None if self._probe is None else self._probe.grad
        if grad is None or grad is not self._grad or grad._version == self._version:
            return False
        return not bool(grad.any())  # set to zero in place

    def before_step(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        """To be called when the optimizer is about to step, with what its step is given; gives back
        what it is to be given in their place, if anything: a closure has the backward pass in it.
        """
        self.stepped = self.ever = True
        self.clipped = self._ratio() if self.pending else 1.0
        closure = args[1] if len(args) > 1 else options.get("closure")
        if closure is None:
            return None

        def measured() -> Any:
            found = closure()
            self.clipped = self._ratio()
            return found

        kept = {name: value for name, value in options.items() if name != "closure"}
        return (args[0], measured, *args[2:]), kept

    def begin(self) -> None:
        """To be called with each new batch."""
        self.stepped, self.clipped = False, 1.0

    def taken(self) -> bool:
        """Whether the gates may step, for the optimizer has; their gradients are then used up."""
        if self.stepped:
            self.pending = False
        return self.stepped

    def _ended(self) -> None:
        if self._probe is None or self._probe.grad is None:
            self._probe = self._chosen()
        if self._probe is not None and self._probe.grad is not None:
            grad = self._grad = self._probe.grad
            self._before, self._version = grad.detach().clone(), grad._version

    def _chosen(self) -> Tensor | None:
        found = [p for p in self._parameters() if p.grad is not None and not p.grad.is_sparse]
        found.sort(key=lambda p: (p.numel() < _ENOUGH, p.numel()))
        moving = (p for p in found if bool(p.grad.any()))  # type: ignore[union-attr]
        return next(moving, found[0] if found else None)

    def _ratio(self) -> float | Tensor:
        grad = None if self._probe is None else self._probe.grad
        if grad is None or self._before is None:
            return 1.0
        if grad is self._grad and grad._version == self._version:
            return 1.0
        ratio = (_norm(grad) / _norm(self._before)).nan_to_num(1.0, posinf=1.0).clamp(max=1.0)
        return float(ratio) if ratio.device.type == "cpu" else ratio  # waits for no device


def _norm(grad: Tensor) -> Tensor:
    precise = torch.promote_types(grad.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(grad.detach().to(precise))
    return norm
