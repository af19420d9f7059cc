"""A network under ordinary training, as methods for hypergradients see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from hpo.bilevel.implicit.coordinates import Coordinates
from objectives.training.evaluation import checked_loss, evaluating
from objectives.training.optimizers import highest_rate
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from objectives.training.state import Run

_FLOOR = 1e-4  # of the mean square gradient of a tensor
_RATE = 1e-3  # of a step of the optimizer that is looked at
_NEAR = 0.01  # units, of the difference quotients of what has no derivative of its own


class TrainingView:
    """The view of a run: the rows of its last training step, and validation rows drawn anew.

    What a knob of the optimizer's step does (decoupled weight decay) is part of the inner slope:
    training rests where gradient and decay balance, in the scale in which the optimizer sees
    gradients. stepped: the knobs of that kind, held ones as well. Everything is to happen within
    `beside`.
    """

    def __init__(
        self, run: Run, coordinates: Coordinates, stepped: frozenset[str], gauss_newton: bool
    ) -> None:
        self._run, self._coordinates = run, coordinates
        self._gauss_newton = gauss_newton
        self.parameters = list(run.parameters.values())
        self._names = list(run.parameters)
        self._columns = [
            k for name in stepped & {*coordinates.slices} for k in _range(coordinates.slices[name])
        ]
        self.decays = bool(stepped)
        self.looked_into = False
        self.sum = 0.0
        self._scale: Tensor | None = None
        group = run.optimizer.param_groups[0]
        self._fading = group["betas"][0] if "betas" in group else group.get("momentum") or 0.0

    @property
    def x(self) -> Tensor:
        return _flat([p.detach() for p in self.parameters])

    @property
    def scale(self) -> Tensor:
        if self._scale is None:
            scales = _flat([_scale(self._run.optimizer, p) for p in self.parameters])
            self._scale = scales * self._run.clipped
        return self._scale

    @property
    def damping(self) -> float:
        return 1 / self.sum if self.sum > 0 else 0.0

    def trained(self) -> None:
        """Takes note of a step of the optimizer."""
        self.sum += highest_rate(self._run.optimizer)
        self._scale = None

    def draw(self) -> None:
        """Moves on to other validation rows, and remembers the draws of the moment."""
        run = self._run
        rng = torch.Generator(run.device).manual_seed(run.step)
        rows = len(run.batch.targets)
        self._validation = run.next_batch("validation").sample(rows, rng)
        self._noise, self._globals = run.noise.get_state(), run.streams.now()

    def curved(self, t: Tensor) -> TrainingCurvature:
        return TrainingCurvature(self, t, self._gauss_newton)

    def inner(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.detach().requires_grad_()
        with self._standing_at(x):
            loss, penalty = self.losses(t)
            total = loss if penalty is None else loss + penalty
            grads = torch.autograd.grad(
                total, [*self.parameters, t], allow_unused=True, materialize_grads=True
            )
        self.spend(1)
        return _flat(grads[:-1]), grads[-1]

    def outer(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        run, batch = self._run, self._validation
        with self._standing_at(x), evaluating(run.model):
            loss = checked_loss(run.task.loss(run.model, batch), len(batch.targets), run.task)
            grads = torch.autograd.grad(
                loss.mean(), self.parameters, allow_unused=True, materialize_grads=True
            )
        self.spend(1)
        return _flat(grads), torch.zeros_like(t)

    def stride(
        self, x: Tensor, gradient: Tensor, velocity: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        rate, fading = highest_rate(self._run.optimizer), self._fading
        velocity = fading * velocity + (1 - fading) * gradient
        return rate * (self.decay(x, t).to(x) - self.scale * velocity), velocity

    def losses(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """What training minimizes on the rows of its last step, with the draws remembered: the
        loss, and the penalty."""
        run = self._run
        run.noise.set_state(self._noise)
        run.streams.rewind(self._globals)
        return run.regularized_loss(run.batch, self.knobs(t))

    @contextmanager
    def outputs(self) -> Iterator[list[Tensor]]:
        """Within it, what the network puts out is collected, each tensor under a name of its own:
        of two, one may be made from the other, and is not to be counted with it."""
        seen: list[Tensor] = []

        def alias(one: Any) -> Any:
            if not (isinstance(one, Tensor) and one.requires_grad):
                return one
            seen.append(one.view_as(one))
            return seen[-1]

        def keep(module: Any, given: Any, output: Any) -> Any:
            return tree_map(alias, output)

        handle = self._run.model.register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()

    def knobs(self, t: Tensor) -> dict[str, Any]:
        """The strengths at t, in the precision of the parameters."""
        like = self.parameters[0]
        values = self._coordinates.values(t)
        return {
            name: value.to(like) if name in self._coordinates.slices else value
            for name, value in values.items()
        }

    def decay(self, x: Tensor, t: Tensor) -> Tensor:
        """What the optimizer's step does to x beside its gradient, per learning rate, (n,); in
        double precision, since weights are hardly changed by a step."""
        x = x.double()
        moved = self._named(x)
        self._run.regularization.before_step(moved, self._precise(t), _RATE)
        return (_flat(list(moved.values())) - x) / _RATE

    def _precise(self, t: Tensor) -> dict[str, Any]:
        return {
            name: torch.tensor(value, dtype=torch.float64, device=t.device)
            if isinstance(value, float | tuple)
            else value
            for name, value in self._coordinates.values(t).items()
        }

    def decay_cross(self, q: Tensor, t: Tensor) -> Tensor:
        """How q times `decay` changes with t, (m,)."""
        found, x = torch.zeros_like(t), self.x
        for column in self._columns:
            shift = torch.zeros_like(t)
            shift[column] = _NEAR
            apart = self.decay(x, t + shift) - self.decay(x, t - shift)
            found[column] = (q.double() @ apart).to(t) / (2 * _NEAR)
        return found

    def spend(self, gradients: float, **other: float) -> None:
        self._run.spend(gradients, gradients * len(self._run.batch.targets), **other)

    def _named(self, x: Tensor) -> dict[str, Tensor]:
        parts = _like(x, self.parameters)
        return {name: part.clone() for name, part in zip(self._names, parts, strict=True)}

    @contextmanager
    def _standing_at(self, x: Tensor) -> Iterator[None]:
        """Within it the model has these parameters."""
        before = self.x
        if torch.allclose(x, before, rtol=0, atol=0, equal_nan=True):
            yield
            return
        self._put(x)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, x: Tensor) -> None:
        for p, part in zip(self.parameters, self._named(x).values(), strict=True):
            p.copy_(part)


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
            found = self._newton.product(self._parameters, _like(v, self._parameters))
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
        return _flat(
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
        return _flat(_grad(self._outputs, parameters, bent))


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
    return _flat(_grad([graph], wanted, [v]))


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


def _scale(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor:
    """What the optimizer multiplies a parameter's gradient by, beside the learning rate."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    state: Mapping[str, Any] = optimizer.state.get(parameter, {})
    if "exp_avg_sq" in state:
        fading, steps = group["betas"][1], float(state["step"])
        second = state["exp_avg_sq"] / (1 - fading**steps)
        # Weights that training never moves do not answer to a knob either: without a floor they
        # would count as infinitely soft.
        softness: Tensor = 1 / ((second + _FLOOR * second.mean()).sqrt() + group["eps"])
        return softness
    momentum = group.get("momentum") or 0.0
    return torch.full_like(parameter.detach(), 1 / (1 - momentum))


def _like(x: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(x, [one.numel() for one in tensors])
    return [part.view_as(one) for part, one in zip(parts, tensors, strict=True)]


def _range(columns: slice) -> range:
    return range(columns.start, columns.stop)


def _flat(tensors: Any) -> Tensor:
    return torch.cat([one.reshape(-1) for one in tensors])
