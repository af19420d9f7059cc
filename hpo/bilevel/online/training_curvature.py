"""Products with the second derivatives of a network's training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpo.bilevel.online._flat import flat, like
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from hpo.bilevel.online.training import TrainingView


class TrainingCurvature:
    """Products with the second derivatives of what training minimizes, at the weights of the
    moment; the graph of the gradient is built once, so rows and draws are fixed.

    gauss_newton: the Hessian without the curvature of the network itself: that of the loss in the
    network's outputs and of penalties. It is never negative where these are convex (Schraudolph,
    2002). Mixed derivatives are exact either way.
    """

    def __init__(self, view: TrainingView, t: Tensor, gauss_newton: bool) -> None:
        self._view, self._t = view, t.detach().requires_grad_()
        self._x, self._parameters = view.x, view.parameters
        with _twice_differentiable(), view.outputs() as outputs:
            loss, penalty = view.losses(self._t)
            total = loss if penalty is None else loss + penalty
            try:
                self._graph = self._slopes(total, self._parameters)
                self._newton = _GaussNewton(loss, outputs) if gauss_newton and outputs else None
                self._penalty: Tensor | None = None
                if penalty is not None and self._newton is not None:
                    self._penalty = self._slopes(penalty, self._parameters)
            except RuntimeError as error:
                raise _once_only(error) from error
        if not view.looked_into:  # once a run: a network stays what it is
            _refuse_dead_ends(self._graph)
            view.looked_into = True
        view.spend(1)
        self.slope = self._graph.detach()
        self._rest: Tensor | None = None
        if view.decays:
            self._rest = view.decay(self._x, t)
            self.slope = self.slope - self._rest.to(self._x) / view.scale

    def product(self, v: Tensor) -> Tensor:
        if self._newton is None:
            found = _walk(self._graph, self._parameters, v)
        else:
            found = self._newton.product(self._parameters, like(v, self._parameters))
            if self._penalty is not None:
                found = found + _walk(self._penalty, self._parameters, v)
        if self._rest is not None:
            apart = self._view.decay(self._x.double() + v, self._t.detach()) - self._rest
            found = found - apart.to(v) / self._view.scale
        self._view.spend(0, products=1)
        return found

    def products(self, vs: Tensor) -> Tensor:
        return torch.stack([self.product(v) for v in vs])

    def cross(self, q: Tensor) -> Tensor:
        found = _walk(self._graph, [self._t], q)
        if self._rest is not None:
            found = found - self._view.decay_cross(q / self._view.scale, self._t.detach())
        self._view.spend(0, crosses=1)
        return found

    @staticmethod
    def _slopes(loss: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        return flat(
            torch.autograd.grad(
                loss, wanted, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )


class _GaussNewton:
    """J' H J, J the derivative of the outputs in the parameters, H of the loss in the outputs."""

    def __init__(self, loss: Tensor, outputs: list[Tensor]) -> None:
        self._outputs = outputs
        self._slopes = torch.autograd.grad(
            loss, outputs, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self._dummies = [torch.zeros_like(one, requires_grad=True) for one in outputs]
        self._back: tuple[Tensor, ...] | None = None

    def product(self, parameters: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
        if self._back is None:  # J' of the dummies, linear in them: its transpose is J
            self._back = torch.autograd.grad(
                self._outputs, parameters, self._dummies, create_graph=True, allow_unused=True,
                materialize_grads=True,
            )  # fmt: skip
        forward = _grad(self._back, self._dummies, v)
        bent = _grad(self._slopes, self._outputs, forward)
        return flat(_grad(self._outputs, parameters, bent))


def _grad(of: Sequence[Tensor], wanted: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """v times the derivative of `of`; zero where there is none."""
    kept = [(one, part) for one, part in zip(of, v, strict=True) if one.requires_grad]
    if not kept:
        return [torch.zeros_like(one) for one in wanted]
    try:
        found = torch.autograd.grad(
            [one for one, _ in kept], list(wanted), [part for _, part in kept], retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
    except RuntimeError as error:
        raise _once_only(error) from error
    return list(found)


def _walk(graph: Tensor, wanted: Sequence[Tensor], v: Tensor) -> Tensor:
    return flat(_grad([graph], wanted, [v]))


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Within it torch takes kernels that can be differentiated twice, where it has a choice."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


def _refuse_dead_ends(graph: Tensor) -> None:
    """Raises HpoError where a function of the user's (`once_differentiable`) has cut the graph of
    the gradient: torch leads no path through it, so that products would silently lack its part."""
    nodes, seen = [graph.grad_fn], {graph.grad_fn, None}
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            raise _without_second("a torch.autograd.Function marked once_differentiable")
        ahead = {one for one, _ in node.next_functions} - seen
        seen |= ahead
        nodes += ahead


def _once_only(error: RuntimeError) -> Exception:
    text = str(error)
    if "derivative for" in text or "double backward" in text or "twice" in text:
        return _without_second(text.splitlines()[0][:120])
    return error


def _without_second(what: str) -> HpoError:
    return HpoError(
        f"the model has an operation without a second derivative: {what}",
        hint="use sampler f2sa, which needs first derivatives only, or stn",
        code="once-differentiable",
        path=("sampler",),
    )
