"""A network under ordinary training, as methods for hypergradients see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hpo.bilevel.implicit.coordinates import Coordinates
from hpo.bilevel.online._flat import flat, like
from hpo.bilevel.online.training_curvature import TrainingCurvature
from objectives.training.evaluation import checked_loss
from objectives.training.optimizers import highest_rate
from search_spaces.evaluating import evaluating

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
        return flat([p.detach() for p in self.parameters])

    @property
    def scale(self) -> Tensor:
        if self._scale is None:
            scales = flat([_scale(self._run.optimizer, p) for p in self.parameters])
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
        return flat(grads[:-1]), grads[-1]

    def outer(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        run, batch = self._run, self._validation
        with self._standing_at(x), evaluating(run.model):
            loss = checked_loss(run.task.loss(run.model, batch), len(batch.targets), run.task)
            grads = torch.autograd.grad(
                loss.mean(), self.parameters, allow_unused=True, materialize_grads=True
            )
        self.spend(1)
        return flat(grads), torch.zeros_like(t)

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
        for name, tensor in moved.items():
            grad = self._run.parameters[name].grad  # of the last step: it may depend on that
            tensor.grad = None if grad is None else grad.to(tensor)
        self._run.regularization.before_step(moved, self._precise(t), _RATE)
        return (flat(list(moved.values())) - x) / _RATE

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
        parts = like(x, self.parameters)
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


def _range(columns: slice) -> range:
    return range(columns.start, columns.stop)
