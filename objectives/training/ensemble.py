"""Several runs of one task as one: their parameters side by side in tensors of one more dimension.

What a step costs with a small model is mostly the time from one operation to the next. Members of
an ensemble share the operations: `torch.func.vmap` carries each out for all of them at once.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from objectives.training.evaluation import (
    averages,
    batch_sums,
    held_out_splits,
    require_gradient,
)
from objectives.training.optimizers import build_optimizer
from objectives.training.state import Run
from objectives.training.task import classes_of
from objectives.training.tuner import Follow
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch

# A parameter, buffer or knob of all members, by its name; the first dimension counts them.
Stacked: TypeAlias = dict[str, Tensor]


class Ensemble:
    """Members in training: one start, the same batches and random draws, knobs of their own.

    The run lends its model, its batches and its regularizers; its own parameters stay as they are.
    """

    def __init__(self, run: Run, tuners: Sequence[Follow]) -> None:
        self.run, self.tuners = run, list(tuners)
        self._whole = _Whole(run.model)
        self._parameters = self._stacked(run.parameters)
        self._buffers = self._stacked(dict(run.model.named_buffers()))
        for parameter in self._parameters.values():
            parameter.requires_grad_()
        # The optimizer steps these from zero at a rate of one. So they hold the direction, which
        # depends on no learning rate, and each member goes along it at its own.
        self._directions = [torch.zeros_like(p).requires_grad_() for p in self._parameters.values()]
        self._optimizer = build_optimizer(
            self._directions, dataclasses.replace(run.training, learning_rate=1.0)
        )
        self._knobs = _Knobs(run.device)
        # What the model holds while a member is in it.
        run.effective = lambda: {
            n: p for n, p in run.model.named_parameters() if n in run.parameters
        }

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One step of every member; gives back the losses, and the losses with their penalties."""
        run = self.run
        progress = run.step / run.training.steps
        points = [tuner.point(progress) for tuner in self.tuners]
        rate = self._rate(progress, points)
        shared, own = self._knobs.split(points)
        batch = run.next_batch("train")

        def losses(own: Stacked) -> tuple[Tensor, Tensor]:
            loss, penalty = run.regularized_loss(batch, {**shared, **own})
            return loss, loss if penalty is None else loss + penalty

        loss, total = self._each(losses, own)
        require_gradient(total, run.task)
        for parameter in self._parameters.values():
            parameter.grad = None
        total.sum().backward()
        with torch.no_grad():
            if run.training.clip is not None:
                self._clip(run.training.clip)
            if run.regularization.steps:
                self._before_step(shared, own, rate)
            self._step(rate)
        run.spend(gradients=1, examples=len(batch.targets))  # of each
        run.step += 1
        return loss.detach(), total.detach()

    def held_out(self) -> list[dict[str, float]]:
        """Each member's metrics on the validation split, and on the selection hold-out where
        there is one."""
        run, found = self.run, [dict[str, float]() for _ in self.tuners]
        classes = classes_of(run.task)

        def sums_of(batch: Batch) -> Stacked:
            sums: Stacked = self._each(
                lambda _: batch_sums(run.task, run.model, batch, classes), {}
            )
            return sums

        with evaluating(run.model), torch.no_grad():
            for prefix, split in held_out_splits(run.task).items():
                for name, values in averages(run.task, split, run.device, sums_of).items():
                    for metrics, value in zip(found, values.tolist(), strict=True):
                        metrics[f"{prefix}_{name}"] = value
        return found

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Leaves out the other members; those that stay are counted anew, in this order."""
        index = torch.tensor(rows, device=self.run.device)
        self.tuners = [self.tuners[row] for row in rows]
        for direction in self._directions:
            state = self._optimizer.state[direction]
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == direction.shape:
                    state[name] = value[index]
        for parameter in (*self._parameters.values(), *self._directions):
            parameter.grad = None
            parameter.data = parameter[index]
        self._buffers = {name: buffer[index] for name, buffer in self._buffers.items()}

    def _stacked(self, tensors: Mapping[str, Tensor]) -> Stacked:
        count = len(self.tuners)
        return {n: t.detach().expand(count, *t.shape).clone() for n, t in tensors.items()}

    def _each(self, function: Callable[[Stacked], Any], own: Stacked) -> Any:
        """What the function gives of each member, side by side, with that one's parameters in the
        model and its knobs as argument. Random draws in it are made once, the same for all."""

        def one(tensors: Stacked, own: Stacked) -> Any:
            named = {f"model.{name}": tensor for name, tensor in tensors.items()}
            return functional_call(self._whole, named, (function, own))

        return vmap(one, randomness="same")(self._parameters | self._buffers, own)

    def _rate(self, progress: float, points: Sequence[Mapping[str, Any]]) -> float | Tensor:
        """The learning rate of a step: one number, or a tensor of each member's."""
        if "learning_rate" not in points[0]:
            return self.run.rate(progress, points[0])
        rate: float | Tensor = self._knobs.joined([self.run.rate(progress, p) for p in points])
        return rate

    def _clip(self, most: float) -> None:
        """Scales each member's gradients so that their norm is at most this."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        parts = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads]
        norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        factors = (most / (norms + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(_by_member(factors, grad))

    def _before_step(self, shared: Mapping[str, Any], own: Stacked, rate: float | Tensor) -> None:
        regularization = self.run.regularization

        def one(parameters: Stacked, grads: Stacked, own: Stacked, rate: Any) -> Stacked:
            for name, grad in grads.items():
                parameters[name].grad = grad
            regularization.before_step(parameters, {**shared, **own}, rate)
            return parameters

        grads = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
        rates = 0 if isinstance(rate, Tensor) else None
        vmap(one, (0, 0, 0, rates))(self._parameters, grads, own, rate)

    def _step(self, rate: float | Tensor) -> None:
        for parameter, direction in zip(self._parameters.values(), self._directions, strict=True):
            direction.zero_()
            direction.grad = parameter.grad
        self._optimizer.step()
        for parameter, direction in zip(self._parameters.values(), self._directions, strict=True):
            if isinstance(rate, Tensor):
                parameter.addcmul_(direction, _by_member(rate, direction))
            else:
                parameter.add_(direction, alpha=rate)


class _Whole(nn.Module):
    """A model within a module that calls what it is given: `functional_call` puts tensors into the
    model for the length of that call, whatever it does with the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *given: Any) -> Any:
        return function(*given)


class _Knobs:
    """The knobs of all members: plain where all have the same, else tensors."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # As plain numbers have it, which meet other tensors in the type of these.
        self._real = torch.float32 if device.type == "mps" else torch.float64
        self._points: list[Mapping[str, Any]] = []
        self._split: tuple[dict[str, Any], Stacked] = {}, {}

    def split(self, points: list[Mapping[str, Any]]) -> tuple[dict[str, Any], Stacked]:
        """The knobs that are the same in all these points, and those that are not."""
        if len(points) == len(self._points) and all(map(operator.is_, points, self._points)):
            return self._split  # most schedules are constant
        joined = {name: self.joined([point[name] for point in points]) for name in points[0]}
        own = {name: value for name, value in joined.items() if isinstance(value, Tensor)}
        shared = {name: value for name, value in joined.items() if name not in own}
        self._points, self._split = points, (shared, own)
        return self._split

    def joined(self, values: Sequence[Any]) -> Any:
        """A value that all have, or a tensor of each one's."""
        if all(value == values[0] for value in values):
            return values[0]
        whole = all(isinstance(value, int) for value in values)
        return torch.tensor(values, dtype=torch.int64 if whole else self._real).to(self._device)


def _by_member(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
